"""Bright squares of two kinds on a dim ground: what a small detector learns in seconds."""

from __future__ import annotations

import numpy as np
from PIL import Image

from compress.data import Splits
from compress.data.yolo import yolo


def draw(rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, list[list[float]]]:
    """A picture (side, side, 3) with two squares, and a row "class x y width height" for each."""
    pixels, rows = rng.integers(0, 60, (side, side, 3), dtype=np.uint8), []
    for left in (0, side // 2):
        label, size = int(rng.integers(2)), int(rng.integers(14, 26))
        x, y = left + int(rng.integers(0, side // 2 - size)), int(rng.integers(0, side - size))
        pixels[y : y + size, x : x + size, label] += 180
        rows.append([label, (x + size / 2) / side, (y + size / 2) / side, size / side, size / side])
    return pixels, rows


def write(root, counts=(48, 16, 16), seed=0) -> None:
    """Pictures and rows in YOLO's layout under ``root``."""
    rng = np.random.default_rng(seed)
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for number in range(count):
            pixels, rows = draw(rng)
            Image.fromarray(pixels).save(root / "images" / part / f"{number:03}.png")
            text = "\n".join(" ".join(str(value) for value in row) for row in rows)
            (root / "labels" / part / f"{number:03}.txt").write_text(text)


def splits(root, **options) -> Splits:
    """Splits of what ``write`` wrote."""
    return yolo(path=str(root), **{"size": [64, 64], "classes": ["red", "green"], "calibration": 16, **options})
