"""Stick figures: a head, two hands and two feet, drawn in colours of their own, with COCO's keypoints beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
COLOURS = [(255, 255, 255), (255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255)]
WIDTH, HEIGHT = 64, 48


def draw(rng: np.random.Generator) -> tuple[Image.Image, dict]:
    """A picture of 64 x 48 pixels, and the annotation of its figure."""
    image = Image.fromarray(rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    brush = ImageDraw.Draw(image)
    x, y = int(rng.integers(18, 46)), int(rng.integers(14, 20))
    arms, legs = rng.integers(6, 14, 2), rng.integers(4, 12, 2)
    points = [
        (x, y - 8),
        (x + int(arms[0]), y + int(rng.integers(-4, 6))),
        (x - int(arms[1]), y + int(rng.integers(-4, 6))),
        (x + int(legs[0]), y + 20),
        (x - int(legs[1]), y + 20),
    ]
    hip = (x, y + 8)
    brush.line([points[0], hip], fill=(90, 90, 160), width=2)
    for start, end in (((x, y), points[1]), ((x, y), points[2]), (hip, points[3]), (hip, points[4])):
        brush.line([start, end], fill=(90, 90, 160), width=2)
    for (px, py), colour in zip(points, COLOURS, strict=True):
        brush.ellipse([px - 2, py - 2, px + 2, py + 2], fill=colour)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    box = [min(xs) - 3, min(ys) - 3, max(xs) - min(xs) + 6, max(ys) - min(ys) + 6]
    flat = [value for px, py in points for value in (px, py, 2)]
    return image, {"bbox": box, "area": 0.6 * box[2] * box[3], "keypoints": flat, "category_id": 1, "iscrowd": 0}


def write(root: Path, counts: tuple[int, int, int] = (16, 4, 4), seed: int = 0) -> Path:
    """Pictures and ``person_keypoints_*.json`` under ``root``; returns it."""
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        (root / "images" / part).mkdir(parents=True)
        table = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person", "keypoints": NAMES}]}
        for number in range(count):
            image, entry = draw(rng)
            image.save(root / "images" / part / f"{number}.png")
            table["images"].append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
            table["annotations"].append({"id": number + 1, "image_id": number, **entry})
        (root / f"annotations/person_keypoints_{part}.json").write_text(json.dumps(table))
    return root
