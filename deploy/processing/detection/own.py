"""Maps of (samples, 4 + classes, rows, columns): distances through softplus, scores through a sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.arrays import constant, corners_around, flatten_maps, map_places, softplus
from deploy.processing.detection.base import Head, Reader, Reading, Shapes, map_fault


@final
class Own(Reader):
    """At each place the distances to a box's sides in strides, before softplus, and class logits."""

    gives = "a map of 4 + classes channels for each stride"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if fault := map_fault(shapes, head, "4 + classes"):
            return fault
        wanted = None if head.classes is None else 4 + head.classes
        if any(shape[1] != (wanted or max(5, shapes[0][1])) for shape in shapes):
            return f"{wanted or 'more than 4, equally many'} channels a map"
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        flat = flatten_maps(outputs)
        places = constant(map_places([each.shape[-2:] for each in outputs], head.strides), flat)
        boxes = corners_around(places, softplus(flat[..., :4]))
        return Reading(boxes=boxes, class_logits=flat[..., 4:], places=places)
