"""YOLO with its decode in the graph: boxes in pixels and scores in one output, suppression still to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.arrays import corners_of, library
from deploy.processing.detection.base import Head, Reader, Reading, Shapes
from deploy.processing.detection.parts import more_channels, read_more

LEAST_PLACES = 64


@final
class YoloDecoded(Reader):
    """(samples, 4 + classes, places), or with objectness (samples, places, 5 + classes): v8 and later, and v5, v7.

    Centre x, centre y, width and height in pixels; scores from 0 to 1. Behind the classes: of a model that segments the
    coefficients of prototypes, which are a second output (samples, prototypes, rows, columns); where the number of keypoints
    is known, x, y in pixels and the score of each.
    """

    gives = "boxes in pixels and scores in one output"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if not shapes or len(shapes[0]) != 3 or len(shapes) > 2 or any(len(shape) != 4 for shape in shapes[1:]):
            return "one output (samples, 4 + classes, places) or (samples, places, 5 + classes)"
        more, (_, one, other) = more_channels(shapes, head), shapes[0]
        if head.classes is None:
            return "" if 4 < one < other or 5 < other < one else "more places than channels"
        if max(one, other) < LEAST_PLACES:
            return f"{LEAST_PLACES} places or more"
        if one != 4 + head.classes + more and other != 5 + head.classes + more:
            return f"{4 + head.classes + more} channels, or {5 + head.classes + more} with objectness, last"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        found, more = outputs[0], more_channels([each.shape for each in outputs], head)
        _, one, other = found.shape
        by_channel = one < other if head.classes is None else one == 4 + head.classes + more
        rows = library(found).moveaxis(found, 1, 2) if by_channel else found
        boxes = corners_of(rows[..., :2], rows[..., 2:4])
        last = rows.shape[-1] - more
        scores = rows[..., 4:last] if by_channel else rows[..., 4:5] * rows[..., 5:last]
        return Reading(boxes=boxes, class_scores=scores, **read_more(rows[..., last:], outputs[1:]))
