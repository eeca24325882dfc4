"""A task of one's own: reading the single map of FastestDet (github.com/dog-qiuqiu/FastestDet, BSD-3-Clause).

A recipe names the class below, as ``fastestdet.py:FastestDet``. It trains nothing: the model is an ONNX file without
source code, whose outputs are read, judged and measured.

The map is (samples, 5 + classes, rows, columns). At each place: how probable an object is; through tanh, where its
centre lies from the cell's corner, in cells; through a sigmoid, its width and height as shares of the picture; and how
probable each class is. Of a place only the likeliest class counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from compress.data import Samples, Splits
from compress.tasks import Metric, Predict, Task
from compress.tasks.detection import Detection
from compress.tasks.precision import METRIC, UNIT, Detections, average_precision, detections
from profiles.errors import UserError

OBJECT_POWER, CLASS_POWER = 0.6, 0.4
"""How the two probabilities make a score, in the model's own code."""


@final
class FastestDet(Task):
    """Targets are boxes, as those of the task ``detection``; only the outputs differ.

    Args:
        stride: pixels of the input that a cell covers.
    """

    metric = METRIC
    unit = UNIT
    parts = ("compress.tasks.detection", "compress.tasks.precision")

    def __init__(self, *, stride: int = 16, least_score: float = 0.01, most_overlap: float = 0.45) -> None:
        self._stride, self._least_score, self._most_overlap = stride, least_score, most_overlap

    def check(self, splits: Splits) -> None:
        Detection().check(splits)

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        height, width = splits.test.load(np.arange(1)).inputs.shape[-2:]
        expected = (2, 5 + len(splits.classes), height // self._stride, width // self._stride)
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        if given != expected:
            raise UserError(f"gives {given} for two samples; FastestDet of {len(splits.classes)} classes gives {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        raise UserError("the task FastestDet only judges; train with the task detection")

    def logits(self, outputs: Any) -> Tensor:
        """The class probabilities of every place: (samples, places, classes)."""
        found: Tensor = outputs[:, 5:].flatten(2).transpose(1, 2)
        return found

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return average_precision(self.detect, predict, samples)

    def detect(self, outputs: Sequence[npt.NDArray[Any]]) -> list[Detections]:
        """The detections in each sample."""
        return [self._sample(each) for each in outputs[0]]

    def _sample(self, found: npt.NDArray[Any]) -> Detections:
        _, rows, columns = found.shape
        down, across = np.mgrid[:rows, :columns] * self._stride
        x, y = across + np.tanh(found[1]) * self._stride, down + np.tanh(found[2]) * self._stride
        wide, high = _sigmoid(found[3]) * columns * self._stride, _sigmoid(found[4]) * rows * self._stride
        boxes = np.stack([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], axis=-1).reshape(-1, 4)
        classes = found[5:].reshape(len(found) - 5, -1).T
        scores = found[0].reshape(-1, 1) ** OBJECT_POWER * classes**CLASS_POWER
        scores = np.where(classes == classes.max(axis=1, keepdims=True), scores, 0)
        return detections(boxes, scores, least_score=self._least_score, most_overlap=self._most_overlap)


def _sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    made: npt.NDArray[Any] = 1 / (1 + np.exp(-values))
    return made
