"""YOLO v6, v8 to v12 and 26 before their decode: distances or distributions of them, and class logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from deploy.processing.detection.arrays import constant, corners_around, flatten_maps, library, map_places, softmax
from deploy.processing.detection.base import Head, Reader, Reading, Shapes, map_fault
from deploy.processing.detection.parts import USUAL_BINS, decode_keypoints, maps_apart, parts_fault


@final
class Yolo(Reader):
    """Places without anchors and without objectness; each side's distance in strides is a number or a distribution (DFL).

    One of: a map (samples, 4 * bins + classes, rows, columns) for each stride; for each stride two maps, of 4 * bins and
    of classes channels; or two outputs (samples, 4 * bins, places) and (samples, classes, places) over all strides.
    ``bins`` is 16 in v8 to v12; 1 stands for the distance itself, as in v26. Channels of a distribution are together,
    side by side: a side's first bin is a distance of 0, the next of a stride. A map with one bin looks as the built-in
    detector's, which ``auto`` takes it for: name it.

    Where outputs come apart, a third one follows for each place: 3 numbers for each keypoint; or, with prototypes of masks
    (samples, prototypes, rows, columns) behind all, their coefficients.
    """

    gives = "distances to the sides, or distributions of them, and class logits, by map"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if shapes and len(shapes[0]) == 3:
            return self._flat_fault(shapes, head)
        if len(shapes) >= 2 * len(head.strides) and all(len(shape) == 4 for shape in shapes):
            return self._apart_fault(shapes, head)
        fault = map_fault(shapes, head, "4 * bins + classes")
        if fault or (head.classes is None and all(shape[1] > 4 * USUAL_BINS for shape in shapes)):
            return fault
        wrong = [s[1] for s in shapes if head.classes is None or s[1] - head.classes < 4 or (s[1] - head.classes) % 4]
        return f"4 * bins + {head.classes or 'classes'} channels a map" if wrong else ""

    def _flat_fault(self, shapes: Shapes, head: Head) -> str:
        wanted = f"(samples, 4 * bins, places) and (samples, {head.classes or 'classes'}, places)"
        flat = [shape for shape in shapes if len(shape) == 3]
        if len(flat) < 2 or len({shape[2] for shape in flat}) > 1 or shapes[0][1] % 4:
            return wanted
        if fault := parts_fault([shape[1] for shape in flat[2:]], [s[1] for s in shapes if len(s) == 4], head):
            return fault
        if head.classes is not None and shapes[1][1] != head.classes:
            return wanted
        if head.size is None:
            return "the input's size, to know where the places are"
        places = sum(rows * columns for rows, columns in head.map_sizes())
        return "" if shapes[0][2] == places else f"{wanted} with {places} places, of the strides {list(head.strides)}"

    def _apart_fault(self, shapes: Shapes, head: Head) -> str:
        wanted = f"for each stride a map of 4 * bins and one of {head.classes or 'classes'} channels, of equal size"
        found = maps_apart(shapes, head)
        if found is None or len(found.boxes) != len(head.strides):
            return wanted
        sizes = [shapes[boxes][2:] for boxes in found.boxes]
        return wanted if head.size and sizes != head.map_sizes() else ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        more = prototypes = None
        if outputs[0].ndim == 3:
            kind = library(outputs[0])
            distances, logits, *others = (kind.moveaxis(each, 1, 2) for each in outputs if each.ndim == 3)
            more, sizes = others[0] if others else None, head.map_sizes()
            prototypes = next((each for each in outputs if each.ndim == 4), None)
        elif len(outputs) == len(head.strides):
            flat, sizes = flatten_maps(outputs), [tuple(each.shape[-2:]) for each in outputs]
            channels = 4 * USUAL_BINS if head.classes is None else flat.shape[-1] - head.classes
            distances, logits = flat[..., :channels], flat[..., channels:]
        else:
            found = maps_apart([tuple(each.shape) for each in outputs], head)
            assert found is not None, "checked by fault"
            distances, logits = (flatten_maps([outputs[i] for i in each]) for each in (found.boxes, found.scores))
            more = flatten_maps([outputs[i] for i in found.parts]) if found.parts else None
            prototypes = None if found.prototypes is None else outputs[found.prototypes]
            sizes = [tuple(outputs[boxes].shape[-2:]) for boxes in found.boxes]
        places = constant(map_places(sizes, head.strides), distances)
        sides, distributions = _sides(distances)
        points = None if more is None or prototypes is not None else decode_keypoints(more, places, distributions is None)
        return Reading(
            boxes=corners_around(places, sides),
            class_logits=logits,
            places=places,
            distributions=distributions,
            keypoints=points,
            coefficients=None if prototypes is None else more,
            prototypes=prototypes,
        )


def _sides(distances: Any) -> tuple[Any, Any]:
    """Distances to the four sides, (samples, places, 4), and the logits of their distributions; None without."""
    bins = distances.shape[-1] // 4
    if bins == 1:
        return distances, None
    logits = distances.reshape(*distances.shape[:2], 4, bins)
    return softmax(logits) @ constant(np.arange(bins, dtype=np.float32), logits), logits
