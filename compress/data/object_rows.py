"""Rows of objects with masks or keypoints (``deploy.processing.detection.rows``): joined, moved, mirrored, turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.decoding import Size, turned_boxes
from deploy.processing.detection.rows import CORNERS, NO_VERTEX, NUMBERS, kind_of

Rows = npt.NDArray[np.float32]


def joined(boxes: Rows, more: Rows, areas: Rows | None) -> Rows:
    """Join boxes (objects, 5), vertices or keypoints (objects, points, 3) and keypoints' areas (objects,) to rows."""
    parts = [boxes, more.reshape(len(boxes), NUMBERS * more.shape[1])]
    return np.concatenate(parts if areas is None else [*parts, areas[:, None]], axis=1).astype(np.float32)


def empty_row(width: int) -> Rows:
    """Return a row that only fills up, of so many numbers."""
    row = np.zeros(width, np.float32)
    row[0] = NO_VERTEX
    if kind_of(width) == "masks":
        row[CORNERS + 2 :: NUMBERS] = NO_VERTEX
    return row


def move_points(rows: Rows, zoom: npt.NDArray[Any], left: npt.NDArray[Any], top: npt.NDArray[Any], size: Size) -> None:
    """Enlarge points of rows (samples, most, numbers) and put the corner at ``left`` and ``top``, in place.

    Args:
        size: width and height of the input: keypoints beyond it have no label any more; polygons are cut when drawn.
    """
    kind = kind_of(rows.shape[-1])
    if kind == "boxes":
        return
    end = rows.shape[-1] - (kind == "keypoints")
    x, y = rows[..., CORNERS:end:NUMBERS], rows[..., CORNERS + 1 : end : NUMBERS]
    x *= zoom[:, None, None]
    y *= zoom[:, None, None]
    x += left[:, None, None]
    y += top[:, None, None]
    if kind == "keypoints":
        outside = (x < 0) | (x > size[0]) | (y < 0) | (y > size[1])
        rows[..., CORNERS + 2 : end : NUMBERS][outside] = 0
        rows[..., -1] *= zoom[:, None] ** 2


def mirror_points(rows: Rows, side: int, *, across: bool, pairs: Sequence[tuple[int, int]] = ()) -> None:
    """Mirror points of rows (..., numbers) in place.

    Args:
        side: of the input in pixels: its width where ``across``, left to right, else its height.
        pairs: keypoints that change places where ``across``.
    """
    kind = kind_of(rows.shape[-1])
    if kind == "boxes":
        return
    end = rows.shape[-1] - (kind == "keypoints")
    places = slice(CORNERS + (not across), end, NUMBERS)
    rows[..., places] = side - rows[..., places]
    if across and kind == "keypoints" and pairs:
        count = (end - CORNERS) // NUMBERS
        order = np.arange(count)
        for one, other in pairs:
            order[[one, other]] = other, one
        shape = rows[..., CORNERS:end].shape
        rows[..., CORNERS:end] = rows[..., CORNERS:end].reshape(*shape[:-1], count, NUMBERS)[..., order, :].reshape(shape)


def turned_points(points: Rows, stored: Size, orientation: int) -> Rows:
    """Turn points (objects, points, 3) on stored pixels with their image."""
    flat = points.reshape(-1, NUMBERS)
    corners = np.stack([flat[:, 2], flat[:, 0], flat[:, 1], flat[:, 0], flat[:, 1]], axis=1)
    turned = turned_boxes(corners.astype(np.float32), stored, orientation)
    return turned[:, [1, 2, 0]].reshape(points.shape)
