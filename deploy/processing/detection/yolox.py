"""YOLOX before its decode: offsets, log sizes, objectness, class logits; no anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from deploy.processing.detection.arrays import constant, corners_of, flatten_maps, library, map_places, sigmoid
from deploy.processing.detection.base import Head, Reader, Reading, Shapes, map_fault

LARGEST_POWER = 20.0
"""Of e: a side longer than any picture."""


@final
class Yolox(Reader):
    """Maps of (samples, 5 + classes, rows, columns): centre from the cell's corner and log of the size, both in strides."""

    gives = "a map of 5 + classes channels for each stride, with objectness"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if fault := map_fault(shapes, head, "5 + classes"):
            return fault
        wanted = 6 if head.classes is None else 5 + head.classes
        right = all(shape[1] == wanted or (head.classes is None and shape[1] > 5) for shape in shapes)
        return "" if right else f"{wanted} channels a map"

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        flat = flatten_maps(outputs)
        places = constant(map_places([tuple(each.shape[-2:]) for each in outputs], head.strides), flat)
        stride = places[:, 2:]
        sizes = library(flat).exp(library(flat).clip(flat[..., 2:4], -LARGEST_POWER, LARGEST_POWER)) * stride
        boxes = corners_of(places[:, :2] + (flat[..., :2] - 0.5) * stride, sizes)
        return Reading(boxes=boxes, class_scores=sigmoid(flat[..., 4:5]) * sigmoid(flat[..., 5:]), places=places)
