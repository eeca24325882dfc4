"""The DETR kind: class logits and boxes of queries, each object by one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from deploy.processing.detection.arrays import constant, corners_of, softmax
from deploy.processing.detection.base import Head, Reader, Reading, Shapes

MOST_QUERIES = 1000


@final
class Detr(Reader):
    """Logits (samples, queries, classes) and boxes (samples, queries, 4); boxes are centre, width and height, from 0 to 1.

    With as many logits as classes each is a sigmoid's (Deformable DETR, RT-DETR, D-FINE); with one more they are a
    softmax's whose last stands for nothing (DETR). Where both outputs may be either, logits come first. One output
    (samples, queries, 4 + classes), boxes first and scores from 0 to 1, is the same from Ultralytics.
    """

    gives = "logits and boxes of queries"
    suppresses = False

    def fault(self, shapes: Shapes, head: Head) -> str:
        if any(len(shape) != 3 or shape[1] > MOST_QUERIES for shape in shapes):
            return f"outputs (samples, queries, ...) of at most {MOST_QUERIES} queries"
        if len(shapes) == 1 and head.classes is not None and shapes[0][2] == 4 + head.classes:
            return ""
        if len(shapes) != 2 or shapes[0][1] != shapes[1][1] or order(shapes, head, {0, 1}) is None:
            return f"logits (samples, queries, {head.classes or 'classes'}) or one more, and boxes (samples, queries, 4)"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        if len(outputs) == 1:
            (rows,) = outputs
            return Reading(boxes=scaled(rows[..., :4], head), class_scores=rows[..., 4:])
        chosen = order([tuple(each.shape) for each in outputs], head, {0, 1})
        assert chosen is not None, "checked by fault"
        logits, boxes = (outputs[index] for index in chosen)
        if head.classes is not None and logits.shape[-1] == head.classes + 1:
            return Reading(boxes=scaled(boxes, head), class_scores=softmax(logits)[..., :-1])
        return Reading(boxes=scaled(boxes, head), class_logits=logits)


def order(shapes: Shapes, head: Head, more: set[int]) -> tuple[int, int] | None:
    """Return the indices of logits and boxes; None where two outputs are not those.

    Args:
        more: how many logits there may be beyond the classes.
    """
    for logits, boxes in ((0, 1), (1, 0)):
        if shapes[boxes][2] == 4 and (head.classes is None or shapes[logits][2] - head.classes in more):
            return logits, boxes
    return None


def scaled(boxes: Any, head: Head) -> Any:
    """Return corners in pixels of boxes given as shares of the picture; as shares where its size is not known."""
    corners = corners_of(boxes[..., :2], boxes[..., 2:])
    if head.size is None:
        return corners
    height, width = head.size
    return corners * constant(np.array([width, height, width, height], np.float32), corners)
