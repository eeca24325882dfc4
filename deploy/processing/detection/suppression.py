"""Boxes and scores of one sample to its detections: threshold, suppression of non-maxima, best first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Detections = npt.NDArray[np.float32]
"""(detections, 6): [label, score, x1, y1, x2, y2] in pixels of the input, best first."""

MOST_DETECTIONS = 100
"""What COCO's metric looks at in a picture."""
MOST_CANDIDATES = 1000
ROUNDING = 1e-3
"""That an engine's score may be above 1."""
FARTHEST_PX = 1e5
"""Corners farther out are moved here: areas of larger boxes are not numbers of float32 any more."""


def suppress(
    boxes: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any], most_overlap: float
) -> npt.NDArray[np.int64]:
    """Suppress non-maxima within each class; return the indices of the remaining boxes, best first.

    A box goes when its intersection over union with a better one of its class is above ``most_overlap``. Boxes are
    corners of shape (boxes, 4).
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Any] = []
    while len(order) and len(kept) < MOST_DETECTIONS:
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = sides.clip(0).prod(axis=1)
        union = areas[best] + areas[order] - shared
        order = order[(shared <= most_overlap * union) | (labels[order] != labels[best])]
    return np.array(kept, np.int64)


def detections(
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    *,
    least_score: float | npt.NDArray[Any],
    most_overlap: float | None,
) -> Detections:
    """Decode boxes (places, 4) and class scores (places, classes) of one sample into its detections."""
    return placed_detections(boxes, scores, least_score=least_score, most_overlap=most_overlap)[0]


def placed_detections(
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    *,
    least_score: float | npt.NDArray[Any],
    most_overlap: float | None,
) -> tuple[Detections, npt.NDArray[np.int64]]:
    """Decode boxes (places, 4) and class scores (places, classes) of one sample into its detections, and their places.

    What holds no number, or a box whose right side is left of its left one, is dropped.

    Args:
        least_score: one number, or one for each class.
        most_overlap: of two boxes of a class that overlap more (IoU), the less sure one goes; None suppresses nothing.
    """
    right = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    places, labels = np.nonzero((scores >= least_score) & (scores <= 1 + ROUNDING) & right[:, None])
    confidences = scores[places, labels].clip(0, 1)
    most = MOST_CANDIDATES if most_overlap is not None else MOST_DETECTIONS
    if len(confidences) > most:
        first = np.argpartition(-confidences, most)[:most]
        places, labels, confidences = places[first], labels[first], confidences[first]
    chosen = boxes[places].clip(-FARTHEST_PX, FARTHEST_PX)
    if most_overlap is None:
        kept = np.argsort(-confidences, kind="stable")
    else:
        kept = suppress(chosen, confidences, labels, most_overlap)
    rows = np.column_stack([labels[kept], confidences[kept], chosen[kept]]).astype(np.float32).reshape(-1, 6)
    return rows, places[kept]
