"""Small reference models for examples and tests."""

from compress.models.detector import Detector, detector
from compress.models.ds_cnn import DSCNN, ds_cnn
from compress.models.resnet import ResNet, resnet, resnet20
from compress.models.unet import UNet, unet
from compress.models.upscaler import Upscaler, upscaler
from compress.models.vgg import VGG, vgg

__all__ = [
    "DSCNN",
    "VGG",
    "Detector",
    "ResNet",
    "UNet",
    "Upscaler",
    "detector",
    "ds_cnn",
    "resnet",
    "resnet20",
    "unet",
    "upscaler",
    "vgg",
]
