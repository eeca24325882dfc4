"""YOLO v5 and v7 before their decode: anchors, objectness, class logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from deploy.processing.detection.arrays import constant, corners_of, library, sigmoid
from deploy.processing.detection.base import Head, Reader, Reading, Shapes


@final
class YoloAnchors(Reader):
    """For each stride (samples, anchors * (5 + classes), rows, columns), or (samples, anchors, rows, columns, 5 + classes).

    Centre x and y (2 sigmoid - 0.5 cells from the cell's corner), width and height ((2 sigmoid)^2 of the anchor),
    objectness and classes; a score is the product of the last two's sigmoids.
    """

    gives = "anchors at each place of three maps, with objectness"

    def fault(self, shapes: Shapes, head: Head) -> str:
        anchors = [len(each) for each in head.anchors]
        wanted = f"for each stride a map of {anchors} anchors times (5 + {head.classes or 'classes'})"
        if not len(shapes) == len(head.strides) == len(anchors):
            return wanted
        sizes: list[tuple[int, int] | None] = [*head.map_sizes()] or [None] * len(shapes)
        for shape, count, size in zip(shapes, anchors, sizes, strict=True):
            if len(shape) == 4:
                each, rows_columns = shape[1] / count - 5, shape[2:]
            elif len(shape) == 5 and shape[1] == count:
                each, rows_columns = shape[4] - 5, shape[2:4]
            else:
                return wanted
            if each < 1 or each % 1 or (head.classes not in (None, each)) or (size is not None and rows_columns != size):
                return wanted
        return ""

    def read(self, outputs: Sequence[Any], head: Head) -> Reading:
        kind = library(outputs[0])
        boxes, scores = [], []
        for output, stride, anchors in zip(outputs, head.strides, head.anchors, strict=True):
            cells = output
            if output.ndim == 4:
                split = output.reshape(output.shape[0], len(anchors), -1, *output.shape[2:])
                cells = kind.moveaxis(split, 2, 4)
            rows, columns = cells.shape[2:4]
            y, x = np.mgrid[:rows, :columns].astype(np.float32)
            corner = constant(np.stack([x, y], axis=-1), cells)
            sides = constant(np.array(anchors, np.float32).reshape(1, -1, 1, 1, 2), cells)
            said = sigmoid(cells)
            centres = (2 * said[..., :2] - 0.5 + corner) * stride
            box = corners_of(centres, (2 * said[..., 2:4]) ** 2 * sides)
            boxes.append(box.reshape(box.shape[0], -1, 4))
            score = said[..., 4:5] * said[..., 5:]
            scores.append(score.reshape(score.shape[0], -1, score.shape[-1]))
        return Reading(boxes=kind.concatenate(boxes, 1), class_scores=kind.concatenate(scores, 1))
