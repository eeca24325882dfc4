"""YOLO v6, v8 to v12 and 26 before their decode: distances or distributions of them, and class logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from deploy.processing.detection.arrays import constant, corners_around, flatten_maps, library, map_places, softmax
from deploy.processing.detection.base import Head, Reader, Reading, Shapes, map_fault

USUAL_BINS = 16


@final
class Yolo(Reader):
    """Places without anchors and without objectness; each side's distance in strides is a number or a distribution (DFL).

    One of: a map (samples, 4 * bins + classes, rows, columns) for each stride; for each stride two maps, of 4 * bins and
    of classes channels; or two outputs (samples, 4 * bins, places) and (samples, classes, places) over all strides.
    ``bins`` is 16 in v8 to v12; 1 stands for the distance itself, as in v26. Channels of a distribution are together,
    side by side: a side's first bin is a distance of 0, the next of a stride. A map with one bin looks as the built-in
    detector's, which ``auto`` takes it for: name it.
    """

    gives = "distances to the sides, or distributions of them, and class logits, by map"

    def fault(self, shapes: Shapes, head: Head) -> str:
        if all(len(shape) == 3 for shape in shapes):
            return self._flat_fault(shapes, head)
        if len(shapes) == 2 * len(head.strides) and all(len(shape) == 4 for shape in shapes):
            return self._paired_fault(shapes, head)
        fault = map_fault(shapes, head, "4 * bins + classes")
        if fault or (head.classes is None and all(shape[1] > 4 * USUAL_BINS for shape in shapes)):
            return fault
        wrong = [s[1] for s in shapes if head.classes is None or s[1] - head.classes < 4 or (s[1] - head.classes) % 4]
        return f"4 * bins + {head.classes or 'classes'} channels a map" if wrong else ""

    def _flat_fault(self, shapes: Shapes, head: Head) -> str:
        wanted = f"(samples, 4 * bins, places) and (samples, {head.classes or 'classes'}, places)"
        if len(shapes) != 2 or shapes[0][2] != shapes[1][2] or shapes[0][1] % 4:
            return wanted
        if head.classes is not None and shapes[1][1] != head.classes:
            return wanted
        if head.size is None:
            return "the input's size, to know where the places are"
        places = sum(rows * columns for rows, columns in head.map_sizes())
        return "" if shapes[0][2] == places else f"{wanted} with {places} places, of the strides {list(head.strides)}"

    def _paired_fault(self, shapes: Shapes, head: Head) -> str:
        wanted = f"for each stride a map of 4 * bins and one of {head.classes or 'classes'} channels, of equal size"
        pairs = _pairs(shapes, head.classes)
        if pairs is None or len(pairs) != len(head.strides):
            return wanted
        sizes = [shapes[boxes][2:] for boxes, _ in pairs]
        return wanted if head.size and sizes != head.map_sizes() else ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        if outputs[0].ndim == 3:
            kind = library(outputs[0])
            distances, logits = (kind.moveaxis(each, 1, 2) for each in outputs)
            sizes = head.map_sizes()
        elif len(outputs) == len(head.strides):
            flat, sizes = flatten_maps(outputs), [tuple(each.shape[-2:]) for each in outputs]
            channels = 4 * USUAL_BINS if head.classes is None else flat.shape[-1] - head.classes
            distances, logits = flat[..., :channels], flat[..., channels:]
        else:
            pairs = _pairs([tuple(each.shape) for each in outputs], head.classes)
            assert pairs is not None, "checked by fault"
            distances = flatten_maps([outputs[boxes] for boxes, _ in pairs])
            logits = flatten_maps([outputs[scores] for _, scores in pairs])
            sizes = [tuple(outputs[boxes].shape[-2:]) for boxes, _ in pairs]
        places = constant(map_places(sizes, head.strides), distances)
        sides, distributions = _sides(distances)
        return Reading(boxes=corners_around(places, sides), class_logits=logits, places=places, distributions=distributions)


def _sides(distances: Any) -> tuple[Any, Any]:
    """Distances to the four sides, (samples, places, 4), and the logits of their distributions; None without."""
    bins = distances.shape[-1] // 4
    if bins == 1:
        return distances, None
    logits = distances.reshape(*distances.shape[:2], 4, bins)
    return softmax(logits) @ constant(np.arange(bins, dtype=np.float32), logits), logits


def _pairs(shapes: Shapes, classes: int | None) -> list[tuple[int, int]] | None:
    """Indices of the boxes' and the scores' map of each size, largest first; None where they are no such pairs.

    Where both could be either, the first is the boxes'.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_size.setdefault(tuple(shape[2:]), []).append(index)
    pairs = []
    for _, members in sorted(by_size.items(), reverse=True):
        if len(members) != 2:
            return None
        fits = [
            (boxes, scores)
            for boxes, scores in (members, members[::-1])
            if shapes[boxes][1] % 4 == 0 and (classes is None or shapes[scores][1] == classes)
        ]
        if not fits:
            return None
        pairs.append(fits[0])
    return pairs
