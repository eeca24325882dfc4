"""Drawn objects with masks and keypoints, in COCO's layout, and a small network that gives both as YOLO's heads do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from compress.data import Splits
from compress.data.coco import coco
from deploy.processing.detection.objects import run_lengths

SIDE = 32
POINTS = ["left_edge", "right_edge", "middle"]
CLASSES = ["box", "disc"]


def write(root: Path, counts: tuple[int, int, int] = (48, 16, 16), seed: int = 0) -> Path:
    """Write a red rectangle (polygon) or a green disc (run lengths) in each half of a picture, with three points each."""
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        folder = root / "images" / part
        folder.mkdir(parents=True)
        images: list[Any] = []
        entries: list[Any] = []
        for number in range(count):
            pixels = rng.integers(0, 50, (SIDE, SIDE, 3), dtype=np.uint8)
            images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            for left in (0, SIDE // 2):
                kind, size = int(rng.integers(2)), int(rng.integers(9, 15))
                x, y = left + int(rng.integers(0, SIDE // 2 - size + 1)), int(rng.integers(0, SIDE - size))
                entry, inside = _object(kind, x, y, size)
                pixels[inside, kind] += 190
                entries.append({**entry, "id": len(entries) + 1, "image_id": number})
            Image.fromarray(pixels).save(folder / f"{number}.png")
        categories = [{"id": n + 1, "name": name, "keypoints": POINTS} for n, name in enumerate(CLASSES)]
        table = {"images": images, "annotations": entries, "categories": categories}
        for start in ("instances", "person_keypoints"):
            (root / "annotations" / f"{start}_{part}.json").write_text(json.dumps(table))
    return root


def splits(root: Path, objects: Any, **options: Any) -> Splits:
    """Read what ``write`` wrote."""
    return coco(path=root, objects=objects, **{"size": SIDE, "calibration": 16, **options})


def _object(kind: int, x: int, y: int, size: int) -> tuple[dict[str, Any], Any]:
    rows, columns = np.arange(SIDE)[:, None] + 0.5, np.arange(SIDE)[None] + 0.5
    right, bottom, middle = x + size, y + size, (x + size / 2, y + size / 2)
    inside = (columns > x) & (columns < right) & (rows > y) & (rows < bottom)
    shape: Any = [[x, y, right, y, right, bottom, x, bottom]]
    if kind:
        inside = (columns - middle[0]) ** 2 + (rows - middle[1]) ** 2 < (size / 2) ** 2
        shape = {"size": [SIDE, SIDE], "counts": run_lengths(inside)}
    points = [x, middle[1], 2, right, middle[1], 2, *middle, 1]
    entry = {"category_id": kind + 1, "bbox": [x, y, size, size], "area": float(inside.sum()), "iscrowd": 0}
    return {**entry, "segmentation": shape, "keypoints": points, "num_keypoints": 3}, inside


class Instances(nn.Module):
    """One map of stride 8: distances, scores and, as ``objects`` says, coefficients and prototypes or keypoints."""

    def __init__(self, objects: str = "masks", width: float = 1.0, prototypes: int = 6) -> None:
        super().__init__()
        wide = int(32 * width)
        layers = [nn.Conv2d(3, wide, 3, 2, 1), nn.BatchNorm2d(wide), nn.ReLU(), nn.Conv2d(wide, wide, 3, 2, 1), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.deep = nn.Sequential(nn.Conv2d(wide, 2 * wide, 3, 2, 1), nn.BatchNorm2d(2 * wide), nn.ReLU())
        self.context = nn.Sequential(nn.Conv2d(2 * wide, 2 * wide, 3, 1, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(2 * wide, 4, 1), nn.Conv2d(2 * wide, len(CLASSES), 1)
        nn.init.constant_(self.boxes.bias, 0.8)  # type: ignore[arg-type]
        nn.init.constant_(self.scores.bias, -3.0)  # type: ignore[arg-type]
        self.objects = objects
        self.more = nn.Conv2d(2 * wide, prototypes if objects == "masks" else 3 * len(POINTS), 1)
        self.prototypes = nn.Sequential(nn.Conv2d(3 * wide, wide, 3, 1, 1), nn.ReLU(), nn.Conv2d(wide, prototypes, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map (samples, 3, 32, 32) to (samples, 4, 16), (samples, 2, 16) and what comes along."""
        shallow = self.stem(pixels)
        deep = self.context(self.deep(shallow))
        found = tuple(layer(deep).flatten(2) for layer in (self.boxes, self.scores, self.more))
        if self.objects != "masks":
            return found
        both = torch.cat([shallow, functional.interpolate(deep, scale_factor=2.0, mode="nearest")], 1)
        return (*found, self.prototypes(both))
