"""Small reference models for examples and tests."""

from compress.models.resnet import ResNet, resnet, resnet20

__all__ = ["ResNet", "resnet", "resnet20"]
