"""Small reference models for examples and tests."""

from compress.models.detector import Detector, detector
from compress.models.resnet import ResNet, resnet, resnet20

__all__ = ["Detector", "ResNet", "detector", "resnet", "resnet20"]
