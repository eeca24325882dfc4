"""Pictures of red and green shapes on a dim ground with their masks, written as data sets are laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
CLASSES = ["ground", "red", "green"]


def draw(rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A picture (side, side, 3) and its labels (side, side): 0 for the ground, 1 and 2 for the shapes."""
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    labels = np.zeros((side, side), np.uint8)
    for left in (0, side // 2):
        label, size = int(rng.integers(1, 3)), int(rng.integers(side // 5, side // 2 - 2))
        x, y = left + int(rng.integers(0, side // 2 - size)), int(rng.integers(0, side - size))
        pixels[y : y + size, x : x + size, label - 1] += 180
        labels[y : y + size, x : x + size] = label
    return pixels, labels


def write(root: Path, counts: tuple[int, int, int] = (32, 8, 8), seed: int = 0, side: int = SIDE) -> Path:
    """``train/images`` and ``train/masks`` under ``root``, and the same for val and test; returns ``root``."""
    rng = np.random.default_rng(seed)
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for number in range(count):
            pixels, labels = draw(rng, side)
            Image.fromarray(pixels).save(root / part / "images" / f"{number:03}.png")
            Image.fromarray(labels).save(root / part / "masks" / f"{number:03}.png")
    return root
