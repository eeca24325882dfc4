"""Detection: boxes and classes of objects; average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from compress.data import Samples, Splits
from compress.losses.boxes import giou
from compress.tasks.assignment import assign
from compress.tasks.base import Metric, Predict, Task, readable_batches
from compress.tasks.precision import CHUNK, METRIC, UNIT, Detections, average_precision, detections
from profiles.errors import UserError


@final
class Detection(Task):
    """Anchor-free detection from maps, finest first, one per stride: (samples, 4 + classes, rows, columns).

    A place of a map stands for the middle of its cell, at ((column + 1/2) stride, (row + 1/2) stride) pixels. Its first
    four numbers are, through softplus and times the stride, the distances in pixels from there to the left, top, right
    and bottom of a box; the others, through a sigmoid, the probability of each class, on its own. A detector of one's
    own that gives this is trained, distilled, judged and measured as the built-in one is.

    Targets are boxes as ``compress.data.base.Batch`` describes them.

    The loss is task-aligned (``compress.tasks.assignment``): binary cross-entropy of the scores with what the places
    shall say, and ``box_weight`` times 1 - GIoU of the boxes, weighted by that.

    Args:
        strides: pixels of the input that a cell of each map covers.
        box_weight: of the boxes' share of the loss.
        least_score: a place less sure than this sees nothing.
        most_overlap: of two boxes of a class that overlap more (IoU), the less sure one goes.
    """

    metric = METRIC
    unit = UNIT

    def __init__(
        self,
        *,
        strides: Sequence[int] = (8, 16, 32),
        box_weight: float = 2.5,
        least_score: float = 0.01,
        most_overlap: float = 0.6,
    ) -> None:
        shares = {"least_score": least_score, "most_overlap": most_overlap}
        faults = [f"[task] {k} is from 0 to 1; given: {v}" for k, v in shares.items() if not 0 <= v <= 1]
        if not strides or list(strides) != sorted(set(strides)) or strides[0] < 1:
            faults.append(f"[task] strides are pixels, finest first, such as [8, 16, 32]; given: {list(strides)}")
        if box_weight < 0:
            faults.append(f"[task] box_weight is 0 or more; given: {box_weight}")
        if faults:
            raise UserError(*faults)
        self._strides, self._box_weight = tuple(strides), box_weight
        self._least_score, self._most_overlap = least_score, most_overlap

    def check(self, splits: Splits) -> None:
        faults: list[str] = []
        parts = {"train": splits.train, "calibration": splits.calibration}
        parts |= {"validation": splits.validation, "test": splits.test}
        for name, samples in parts.items():
            faults += _faults_of(name, samples, len(splits.classes))
        if faults:
            raise UserError(*dict.fromkeys(faults))  # calibration is part of train

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets[..., 0] >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        inputs = splits.train.load(np.arange(1)).inputs
        height, width = inputs.shape[-2:]
        given = [tuple(leaf.shape) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        channels = 4 + len(splits.classes)
        expected = [(2, channels, -(-height // stride), -(-width // stride)) for stride in self._strides]
        if given != expected:
            words = f"detection of {len(splits.classes)} classes with strides {list(self._strides)} reads {expected}"
            raise UserError(f"gives {given or type(outputs).__name__} for two samples; {words}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of the scores and 1 - GIoU of the boxes under task-aligned assignment."""
        logits, boxes, places = self._read(outputs)
        wanted = assign(logits.sigmoid(), boxes, places, targets)
        total = wanted.scores.sum().clamp(min=1)
        scores = functional.binary_cross_entropy_with_logits(logits, wanted.scores, reduction="sum") / total
        weight = wanted.scores.amax(dim=-1)
        answers = weight > 0
        apart = 1 - giou(boxes[answers], wanted.boxes[answers])
        return scores + self._box_weight * (apart * weight[answers]).sum() / total

    def logits(self, outputs: Any) -> Tensor:
        """Extract the class scores of all places before the sigmoid: (samples, places, classes)."""
        return self._read(outputs)[0]

    def signals(self, outputs: Any) -> dict[str, Tensor]:
        """Extract ``boxes``: corners in pixels, (samples, places, 4)."""
        return {"boxes": self._read(outputs)[1]}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return average_precision(self.detect, predict, samples)

    def detect(self, outputs: Sequence[npt.NDArray[Any]]) -> list[Detections]:
        """Decode a model's raw outputs into the detections of each sample."""
        logits, boxes, _ = self._read([torch.from_numpy(output) for output in outputs])
        settings = {"least_score": self._least_score, "most_overlap": self._most_overlap}
        pairs = zip(boxes.numpy(), logits.sigmoid().numpy(), strict=True)
        return [detections(box, score, **settings) for box, score in pairs]

    def _read(self, outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (samples, places, classes), corners in pixels (samples, places, 4), and the places (places, 3)."""
        maps = [leaf.float() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        flat = torch.cat([each.flatten(2) for each in maps], dim=2).transpose(1, 2)
        places = torch.cat(
            [_places(m.shape[-2], m.shape[-1], s, m.device) for m, s in zip(maps, self._strides, strict=True)]
        )
        away = functional.softplus(flat[..., :4]) * places[:, 2:]
        corners = torch.cat([places[:, :2] - away[..., :2], places[:, :2] + away[..., 2:]], dim=-1)
        return flat[..., 4:], corners, places


def _places(rows: int, columns: int, stride: int, device: torch.device) -> Tensor:
    """Centre x, centre y and stride of each place of a map, row by row, in pixels: (rows * columns, 3)."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    centres = torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5
    return torch.cat([centres * stride, torch.full((rows * columns, 1), float(stride), device=device)], dim=1)


def _faults_of(name: str, samples: Samples, classes: int) -> list[str]:
    if len(samples) == 0:
        return [f"data: the {name} split is empty; every split needs samples"]
    unreadable: list[str] = []
    seen: set[int] = set()
    outside = 0
    for batch in readable_batches(samples, CHUNK, unreadable):
        if batch.targets.ndim != 3 or batch.targets.shape[2] != 5:
            words = "detection reads boxes of shape (samples, most, 5), [label, x1, y1, x2, y2]"
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; {words}"]
        if not np.isfinite(batch.inputs).all() or not np.isfinite(batch.targets).all():
            return [f"data: the {name} split holds NaN or infinity"]
        real = batch.targets[batch.targets[..., 0] >= 0]
        seen |= {int(label) for label in np.unique(real[:, 0])}
        height, width = batch.inputs.shape[-2:]
        outside += int(((real[:, 1:3] < -1).any(1) | (real[:, 3] > width + 1) | (real[:, 4] > height + 1)).sum())
    if unreadable:
        return unreadable
    faults: list[str] = []
    if outside:
        faults.append(f"data: the {name} split has {outside} boxes outside their inputs; they are pixels of the input")
    if name in ("validation", "test") and not seen:
        faults.append(f"data: the {name} split has no box; models are judged on it")
    wrong = sorted(label for label in seen if label >= classes)
    if wrong:
        faults.append(f"data: the {name} split has labels {wrong[:5]}; allowed: 0 to {classes - 1}, -1 for none")
    return faults
