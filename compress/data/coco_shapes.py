"""COCO's ``segmentation`` of an object, polygons or run lengths, as vertices and as a mask.

Run lengths are read here and not by pycocotools, which does not compare them with the size of the picture, and writes where
its counts lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.processing.detection.rows import LEAST_VERTICES, NUMBERS

MOST_PIXELS = 1 << 27
"""Of a mask: sizes that an annotation states are not yet those of its picture."""
MOST_VERTICES = 1 << 14
"""Of one mask: COCO's largest have a tenth of that."""
Vertices = npt.NDArray[np.float32]
"""(vertices, 3): x, y, and which polygon."""


def polygons_of(shape: Any, height: int, width: int) -> Vertices:
    """Read COCO's ``segmentation`` as vertices (vertices, 3): polygons as they are, of run lengths each run's rectangle.

    Run lengths of a very ragged outline are taken at a half of their size or less.

    Args:
        height, width: of the picture.

    Raises:
        ValueError, TypeError, LookupError, OverflowError: it is neither, or run lengths of another size.
    """
    if isinstance(shape, Mapping):
        return _outlined(read_runs(shape, height, width))
    if not isinstance(shape, list):
        raise ValueError("a segmentation is a list of polygons, or run lengths")
    parts: list[Vertices] = []
    for polygon in shape:
        if not isinstance(polygon, list) or len(polygon) < 2 * LEAST_VERTICES or len(polygon) % 2:
            raise ValueError("a polygon is a list of x and y in turns, three points or more")
        points = np.array([float(value) for value in polygon]).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a polygon has finite numbers")
        number = np.full((len(points), 1), len(parts))
        parts.append(np.concatenate([points.clip(0, (width, height)), number], axis=1).astype(np.float32))
    if sum(map(len, parts)) > MOST_VERTICES:
        raise ValueError(f"its polygons have {sum(map(len, parts))} points; at most {MOST_VERTICES}")
    return np.concatenate(parts) if parts else np.zeros((0, NUMBERS), np.float32)


def _outlined(mask: npt.NDArray[np.bool_]) -> Vertices:
    """Return rectangles that are a mask; of one that takes more than ``MOST_VERTICES``, at a half of its size or less."""
    step, found = 1, _rectangles(mask)
    while len(found) > MOST_VERTICES:
        step *= 2
        found = _rectangles(mask[step // 2 :: step, step // 2 :: step])
    return found * np.array([step, step, 1], np.float32)


def read_runs(shape: Mapping[str, Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Lay out COCO's run lengths, counts or text, as a mask (height, width).

    Raises:
        ValueError: they are of another size.
    """
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"run lengths of a picture of {str(shape['size'])[:40]}, which is [{height}, {width}]")
    given, total = shape["counts"], height * width
    if total > MOST_PIXELS:
        raise ValueError(f"run lengths of {height} x {width} pixels; at most {MOST_PIXELS:,} are laid out")
    runs = np.array(_read_counts(given) if isinstance(given, str | bytes) else [int(each) for each in given], np.int64)
    if (runs < 0).any() or (runs > total).any() or runs.sum() != total:
        raise ValueError(f"its counts are not those of {total} pixels")
    return np.asarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def _rectangles(mask: npt.NDArray[np.bool_]) -> Vertices:
    """Return the vertices of a rectangle for each block of equal runs side by side; together they are the mask."""
    found: list[tuple[int, int, int, int]] = []
    open_runs: dict[tuple[int, int], int] = {}
    for column in range(mask.shape[1] + 1):
        inside = mask[:, column] if column < mask.shape[1] else np.zeros(mask.shape[0], bool)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
        runs = {(int(top), int(bottom)) for top, bottom in edges.reshape(-1, 2)}
        for run in [run for run in open_runs if run not in runs]:
            found.append((open_runs.pop(run), run[0], column, run[1]))
        for run in runs - set(open_runs):
            open_runs[run] = column
    corners = [
        [(left, top, n), (right, top, n), (right, bottom, n), (left, bottom, n)]
        for n, (left, top, right, bottom) in enumerate(found)
    ]
    return np.array(corners, np.float32).reshape(-1, NUMBERS)


def _read_counts(text: str | bytes) -> list[int]:
    """Read run lengths from COCO's text: 5 bits a sign, the least first, and from the third on less the one before last."""
    found: list[int] = []
    value = place = 0
    for sign in text if isinstance(text, bytes) else text.encode():
        bits = sign - 48
        if not 0 <= bits < 64 or place > 40:
            raise ValueError("its counts are no run lengths")
        value |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << place
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = place = 0
    return found
