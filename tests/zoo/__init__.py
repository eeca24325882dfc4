"""Networks that every stage must survive: small ones as people write them, and sixty of libraries (``make zoo``)."""

from tests.zoo.small import ZOO, ViT, ViTBlock, build, conv

__all__ = ["ZOO", "ViT", "ViTBlock", "build", "conv"]
