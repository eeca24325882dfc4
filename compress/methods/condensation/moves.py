"""Moves of images that a gradient goes through: one shift and mirror for all, and tiles of combined images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def move_alike(images: Tensor, shift: int, mirror: bool, generator: torch.Generator) -> Tensor:
    """Shift all images alike by up to ``shift`` pixels, the edge repeated, and mirror all of them half of the time.

    Real and synthetic images are moved alike in matching (differentiable Siamese augmentation, Zhao and Bilen 2021).

    Args:
        images: (samples, channels, height, width).
    """
    if shift:
        top, left = (int(torch.randint(2 * shift + 1, (), generator=generator)) for _ in range(2))
        padded = functional.pad(images, (shift, shift, shift, shift), mode="replicate")
        images = padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]
    if mirror and bool(torch.randint(2, (), generator=generator)):
        images = images.flip(-1)
    return images


def all_tiles(images: Tensor, tiles: int) -> Tensor:
    """Cut images into ``tiles`` x ``tiles`` parts, each enlarged bilinearly to an image, those of one image together.

    Args:
        images: (samples, channels, height, width), sides that ``tiles`` divides.
    """
    if tiles == 1:
        return images
    count, channels, height, width = images.shape
    grid = images.reshape(count, channels, tiles, height // tiles, tiles, width // tiles)
    parts = grid.permute(0, 2, 4, 1, 3, 5).reshape(count * tiles**2, channels, height // tiles, width // tiles)
    return functional.interpolate(parts, (height, width), mode="bilinear", align_corners=False)


def with_mirror(images: Tensor) -> Tensor:
    """Put the mirror images of a set beside it (FYI, 2024, paper 14): what is matched is the set and its mirror image."""
    return torch.cat([images, images.flip(-1)])
