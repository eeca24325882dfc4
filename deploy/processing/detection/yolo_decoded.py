"""YOLO with its decode in the graph: boxes in pixels and scores in one output, suppression still to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.arrays import corners_of, library
from deploy.processing.detection.base import Head, Reader, Reading, Shapes

MASKS = 32
"""Coefficients of a mask behind the classes, in a model that gives prototypes of masks too."""
LEAST_PLACES = 64


@final
class YoloDecoded(Reader):
    """(samples, 4 + classes, places), or with objectness (samples, places, 5 + classes): v8 and later, and v5, v7.

    Centre x, centre y, width and height in pixels; scores from 0 to 1. Of a model that segments, a second output
    (samples, 32, rows, columns) and 32 coefficients behind the classes are passed over.
    """

    gives = "boxes in pixels and scores in one output"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if not shapes or len(shapes[0]) != 3 or len(shapes) > 2 or (len(shapes) == 2 and not _is_prototypes(shapes[1])):
            return "one output (samples, 4 + classes, places) or (samples, places, 5 + classes)"
        masks, (_, one, other) = MASKS * (len(shapes) - 1), shapes[0]
        if head.classes is None:
            return "" if 4 < one < other or 5 < other < one else "more places than channels"
        if max(one, other) < LEAST_PLACES:
            return f"{LEAST_PLACES} places or more"
        if one != 4 + head.classes + masks and other != 5 + head.classes + masks:
            return f"{4 + head.classes + masks} channels, or {5 + head.classes + masks} with objectness, last"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        found, masks = outputs[0], MASKS * (len(outputs) - 1)
        _, one, other = found.shape
        by_channel = one < other if head.classes is None else one == 4 + head.classes + masks
        rows = library(found).moveaxis(found, 1, 2) if by_channel else found
        boxes = corners_of(rows[..., :2], rows[..., 2:4])
        last = rows.shape[-1] - masks
        scores = rows[..., 4:last] if by_channel else rows[..., 4:5] * rows[..., 5:last]
        return Reading(boxes=boxes, class_scores=scores)


def _is_prototypes(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] == MASKS
