"""Small reference models for examples and tests."""

from compress.models.detector import Detector, detector
from compress.models.resnet import ResNet, resnet, resnet20
from compress.models.unet import UNet, unet
from compress.models.vgg import VGG, vgg

__all__ = ["VGG", "Detector", "ResNet", "UNet", "detector", "resnet", "resnet20", "unet", "vgg"]
