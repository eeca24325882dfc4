"""Rows of objects as targets: boxes, with polygons of a mask or with keypoints behind them.

A row is [label, x1, y1, x2, y2] and then three numbers each: of a mask the vertices of its polygons (x, y, and which
polygon, -1 in what only fills up), of keypoints x, y and COCO's visibility, and behind them the figure's area in square
pixels. All is in pixels of the input, so that both move with the boxes; rows of label -1 fill up.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ObjectKind = Literal["boxes", "masks", "keypoints"]
CORNERS, NUMBERS, NO_VERTEX = 5, 3, -1.0
LEAST_VERTICES = 3


def kind_of(width: int) -> ObjectKind | None:
    """Return what rows of this many numbers are of; None where they are of nothing.

    Example:
        >>> kind_of(5), kind_of(5 + 3 * 40), kind_of(5 + 3 * 17 + 1), kind_of(7)
        ('boxes', 'masks', 'keypoints', None)
    """
    if width == CORNERS:
        return "boxes"
    kinds: dict[int, ObjectKind] = {0: "masks", 1: "keypoints"}
    return kinds.get((width - CORNERS) % NUMBERS) if width >= CORNERS + NUMBERS else None


def points_of(rows: Any) -> Any:
    """Return the vertices or keypoints of rows (..., numbers) as a view (..., points, 3), of arrays or tensors."""
    count = (rows.shape[-1] - CORNERS) // NUMBERS
    return rows[..., CORNERS : CORNERS + NUMBERS * count].reshape(*rows.shape[:-1], count, NUMBERS)


def draw(vertices: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Draw the polygons of vertices (vertices, 3) as a mask (height, width), by pycocotools; cut at its edges."""
    from pycocotools import mask

    polygons = []
    for part in range(int(vertices[:, 2].max(initial=NO_VERTEX)) + 1):
        points = vertices[vertices[:, 2] == part, :2].astype(np.float64)
        if len(points) >= LEAST_VERTICES:
            polygons.append(points.clip(0, (width, height)).reshape(-1).tolist())
    if not polygons:
        return np.zeros((height, width), bool)
    return np.asarray(mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))), bool)
