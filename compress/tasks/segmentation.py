"""Segmentation: a class for each pixel; mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from compress.tasks.draws import Weights, values_of_draws
from deploy.engines.inputs import not_finite
from profiles.errors import UserError

CHUNK = 16
UNLABELLED = -1


@final
class Segmentation(Task):
    """Segmentation: logits (samples, classes, rows, columns), integer targets (samples, height, width), -1 for no label.

    Of several outputs the first is read. Where its rows and columns are fewer than the target's, it is enlarged bilinearly
    for loss and metric; whoever uses the engine does the same. The loss is the mean cross-entropy of the labelled pixels.

    The metric is the mean over classes of the intersection over the union of all pixels of a split, in per cent, as with
    Pascal VOC (Everingham et al. 2010); each class, the share of pixels that are right, and the standard error by images
    stand beside it. A class that neither occurs nor is found does not count.

    Args:
        class_weights: of each class in the loss, in the order of the classes; 1 each without.
    """

    metric = "mIoU"
    unit = "%"
    agreement = "top1_agreement"

    def __init__(self, *, class_weights: Sequence[float] = ()) -> None:
        if any(weight <= 0 for weight in class_weights):
            raise UserError(f"[task] class_weights are above 0; given: {list(class_weights)}")
        self._weights = tuple(class_weights)

    def check(self, splits: Splits) -> None:
        faults: list[str] = []
        classes = len(splits.classes)
        if self._weights and len(self._weights) != classes:
            faults.append(f"[task] class_weights has a number for each class, {classes}; given: {len(self._weights)}")
        faults += split_faults(splits, lambda name, samples: _faults_of(name, samples, classes))
        if faults:
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        height, width = splits.train.load(np.arange(1)).targets.shape[1:]
        given = first_shape(outputs)
        wanted = (2, len(splits.classes), height, width)
        fits = len(given) == 4 and given[:2] == wanted[:2] and given[2] <= height and given[3] <= width
        if not fits:
            words = f"segmentation of {wanted[1]} classes reads {wanted}, or fewer rows and columns"
            raise UserError(f"gives {given} for two samples; {words}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the mean cross-entropy over the labelled pixels; 0 where there are none."""
        logits = _enlarged(_first(outputs), targets.shape[-2:])
        weight = torch.tensor(self._weights, device=logits.device, dtype=logits.dtype) if self._weights else None
        total = functional.cross_entropy(logits, targets, weight, ignore_index=UNLABELLED, reduction="sum")
        return total / (targets != UNLABELLED).sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """Return the class scores, classes last: (samples, rows, columns, classes)."""
        return _first(outputs).movedim(1, -1)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "mask"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        counted: list[npt.NDArray[np.int64]] = []
        for batch in samples.batches(CHUNK):
            logits = torch.from_numpy(np.asarray(predict(batch.inputs)[0]))
            found = _enlarged(logits.float(), batch.targets.shape[-2:]).argmax(dim=1).numpy()
            pairs = zip(batch.targets, found, strict=True)
            counted += [count_pixels(truth, given, logits.shape[1]) for truth, given in pairs]
        confusion = np.sum(counted, axis=0)
        ious = intersection_over_union(confusion)
        names = samples.classes or tuple(str(label) for label in range(len(ious)))
        others = {"pixels right": 100 * float(np.trace(confusion) / max(1, confusion.sum()))}
        drawn = iou_of_draws(counted)
        others["standard error"] = float(np.std(drawn))
        others |= {f"IoU {name}": float(iou) for name, iou in zip(names, ious, strict=True) if not np.isnan(iou)}
        mean = _mean(ious)
        return Metric(name=self.metric, value=mean, unit=self.unit, samples=len(samples), others=others, drawn=drawn)


def count_pixels(truth: npt.NDArray[Any], found: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Count the labelled pixels of each true class (rows) that were found as each class (columns)."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def intersection_over_union(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Compute the intersection over union of each class in per cent; NaN for one that neither occurs nor was found."""
    both = np.diag(confusion).astype(np.float64)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    ious: npt.NDArray[np.float64] = np.full(len(both), np.nan)
    np.divide(100 * both, either, out=ious, where=either > 0)
    return ious


def iou_of_draws(counted: Sequence[npt.NDArray[np.int64]]) -> tuple[float, ...]:
    """Compute the mean IoU of as many images drawn anew, of their counts, over the classes in a draw."""
    flat, classes = np.stack(counted).reshape(len(counted), -1), len(counted[0])

    def value(weights: Weights) -> float:
        return _mean(intersection_over_union((weights @ flat).reshape(classes, classes)))

    return values_of_draws(value, len(counted), flat.size)


def _mean(ious: npt.NDArray[np.float64]) -> float:
    return float(np.nanmean(ious)) if not np.isnan(ious).all() else 0.0


def _first(outputs: Any) -> Tensor:
    return first_output(outputs)


def _enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps (samples, classes, rows, columns) bilinearly to ``size``; unchanged where they have it."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _faults_of(name: str, samples: Samples, classes: int) -> list[str]:
    unreadable: list[str] = []
    seen: set[int] = set()
    for batch in readable_batches(samples, CHUNK, unreadable):
        sizes = batch.targets.shape[1:], batch.inputs.shape[2:]
        if batch.targets.ndim != 3 or batch.targets.dtype.kind not in "iu" or sizes[0] != sizes[1]:
            words = f"segmentation reads a whole number for each pixel of the input, {(len(batch.inputs), *sizes[1])}"
            given = f"{batch.targets.dtype} of shape {batch.targets.shape}"
            return [f"data: the {name} split has targets of {given}; {words}"]
        if not_finite(batch.inputs):
            return [f"data: the {name} split holds NaN or infinity"]
        seen |= {int(label) for label in np.unique(batch.targets)}
    if unreadable:
        return unreadable
    faults: list[str] = []
    if name in ("validation", "test") and seen <= {UNLABELLED}:
        faults.append(f"data: the {name} split has no labelled pixel; models are judged on it")
    wrong = sorted(label for label in seen - {UNLABELLED} if not 0 <= label < classes)
    if wrong:
        faults.append(f"data: the {name} split has labels {wrong[:5]}; allowed: 0 to {classes - 1}, -1 for none")
    return faults
