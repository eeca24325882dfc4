"""Detections as they are: YOLO v10 and 26 end to end, or a graph with suppression in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from deploy.processing.detection.arrays import constant, library
from deploy.processing.detection.base import Head, Reader, Reading, Shapes
from deploy.processing.detection.parts import more_channels, read_more

MOST_ROWS = 1000


@final
class EndToEnd(Reader):
    """(samples, detections, 6): x1, y1, x2, y2 in pixels, score, class. Rows that fill up have score 0.

    Behind these as in ``yolo_decoded`` coefficients of masks, with their prototypes as a second output, or keypoints.
    """

    gives = "detections: corners, score, class"
    suppresses = False

    def fault(self, shapes: Shapes, head: Head) -> str:
        more = more_channels(shapes, head) if all(len(shape) == 4 for shape in shapes[1:]) else 0
        if len(shapes) not in (1, 2) or len(shapes[0]) != 3 or shapes[0][2] != 6 + more or shapes[0][1] > MOST_ROWS:
            return f"one output (samples, detections, {6 + more}) of at most {MOST_ROWS} detections"
        return "the number of classes" if head.classes is None else ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        rows = outputs[0]
        assert head.classes is not None, "checked by fault"
        labels = constant(np.arange(head.classes, dtype=np.float32), rows)
        # not a product: a row of no number says nothing, and must not say it of every class
        scores = library(rows).where(rows[..., 5:6] == labels, rows[..., 4:5], constant(np.zeros(1, np.float32), rows))
        return Reading(boxes=rows[..., :4], class_scores=scores, **read_more(rows[..., 6:], outputs[1:]))
