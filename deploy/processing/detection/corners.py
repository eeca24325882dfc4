"""Boxes and scores as two outputs: what a graph gives into which the decode was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.base import Head, Reader, Reading, Shapes


@final
class Corners(Reader):
    """Corners in pixels (samples, places, 4) and scores from 0 to 1 (samples, places, classes), in this order."""

    gives = "corners in pixels and scores, as two outputs"
    named_only = True

    def fault(self, shapes: Shapes, head: Head) -> str:
        right = len(shapes) == 2 and all(len(shape) == 3 and shape[1] == shapes[0][1] for shape in shapes)
        if not right or shapes[0][2] != 4 or head.classes not in (None, shapes[1][2]):
            return f"corners (samples, places, 4) and scores (samples, places, {head.classes or 'classes'})"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        boxes, scores = outputs
        return Reading(boxes=boxes, class_scores=scores)
