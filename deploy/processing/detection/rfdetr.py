"""RF-DETR: the DETR kind with one logit more than classes, all of them sigmoids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.base import Head, Reader, Reading, Shapes
from deploy.processing.detection.detr import MOST_QUERIES, order, scaled


@final
class RfDetr(Reader):
    """Logits (samples, queries, classes + 1), the last without meaning, and boxes as ``detr``."""

    gives = "logits, one more than classes, and boxes of queries"
    suppresses = False
    named_only = True

    def fault(self, shapes: Shapes, head: Head) -> str:
        right = len(shapes) == 2 and all(len(shape) == 3 and shape[1] == shapes[0][1] <= MOST_QUERIES for shape in shapes)
        if not right or order(shapes, head, {1}) is None:
            return f"logits (samples, queries, {head.classes or 'classes'} + 1) and boxes (samples, queries, 4)"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        chosen = order([tuple(each.shape) for each in outputs], head, {1})
        assert chosen is not None, "checked by fault"
        logits, boxes = (outputs[index] for index in chosen)
        return Reading(boxes=scaled(boxes, head), class_logits=logits[..., :-1])
