"""Classification: a label per sample, or per step; top-1 accuracy, top-5 and expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from deploy.engines.inputs import not_finite
from profiles.errors import UserError

CHUNK = 512
UNLABELLED = -1
ECE_BINS = 15
MOST_NAMED = 5
"""Classes that are named of those that a split has no sample of."""


@final
class Classification(Task):
    """Classification with one label a sample: logits (samples, classes), integer targets (samples,).

    Or one a step of each sample: logits (samples, steps, classes), targets (samples, steps). A target of -1 stands for no
    label; of steps those are not judged.
    """

    metric = "top1"
    unit = "%"
    agreement = "top1_agreement"

    def check(self, splits: Splits) -> list[str]:
        told: list[str] = []

        def look(name: str, samples: Samples) -> list[str]:
            faults, seen = _faults_of(name, samples, len(splits.classes))
            told.extend(_missing(name, seen, splits.classes))
            return faults

        if faults := split_faults(splits, look):
            raise UserError(*faults)
        return told

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        expected = (2, *splits.train.load(np.arange(1)).targets.shape[1:], len(splits.classes))
        given = first_shape(outputs)
        if given != expected:
            raise UserError(f"gives {given} for two samples; classification of {expected[-1]} classes reads {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the cross-entropy over the labelled samples."""
        logits = self.logits(outputs).flatten(0, -2)
        labelled = functional.cross_entropy(logits, targets.flatten(), ignore_index=UNLABELLED, reduction="sum")
        return labelled / (targets != UNLABELLED).sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """Return the first tensor of the outputs: a tensor, a tuple or a table of them."""
        return first_output(outputs)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "classes"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return self.evaluate_samples(predict, samples)[0]

    def evaluate_samples(self, predict: Predict, samples: Samples) -> tuple[Metric, npt.NDArray[Any]]:
        parts = [(predict(batch.inputs)[0], batch.targets) for batch in samples.batches(CHUNK)]
        logits, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if labels.ndim > 1:
            return self._of_steps(logits, labels)
        others = {"ece": expected_calibration_error(logits, labels)}
        if logits.shape[1] > 5:
            others["top5"] = top_k(logits, labels, 5)
        value, right = top_k(logits, labels, 1), logits.argmax(axis=1) == labels
        return Metric(name=self.metric, value=value, unit=self.unit, samples=len(labels), others=others), right

    def _of_steps(self, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[Metric, npt.NDArray[Any]]:
        """Judge labels of steps: each labelled step counts alike; a sample's score is the share of its steps."""
        known, right = labels != UNLABELLED, logits.argmax(axis=-1) == labels
        others = {"ece": expected_calibration_error(logits[known], labels[known])}
        value = 100.0 * float(right[known].mean())
        weights = known.sum(axis=1)
        scores = np.where(known, right, 0).sum(axis=1) / np.maximum(weights, 1) * weights / weights.mean()
        return Metric(name=self.metric, value=value, unit=self.unit, samples=len(labels), others=others), scores


def top_k(logits: npt.NDArray[Any], labels: npt.NDArray[Any], k: int) -> float:
    """Compute the percentage of samples with the label among their ``k`` largest logits; ties count against it."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = (logits > own).sum(axis=1)
    ties = (logits == own).sum(axis=1) - 1
    first = logits.argmax(axis=1) == labels
    return 100.0 * float((first if k == 1 else before + ties < k).mean())


def expected_calibration_error(logits: npt.NDArray[Any], labels: npt.NDArray[Any], bins: int = ECE_BINS) -> float:
    """Compute the mean gap of confidence and accuracy over equal bins, in points (Guo et al. 2017, equation 3)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    confidence = 1.0 / np.exp(shifted).sum(axis=1)
    right = logits.argmax(axis=1) == labels
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(where, weights=right - confidence, minlength=bins)
    return 100.0 * float(np.abs(gaps).sum() / len(labels))


def _missing(name: str, seen: set[int], classes: tuple[str, ...]) -> list[str]:
    """Tell of classes that a labelled split has no sample of."""
    absent = [each for number, each in enumerate(classes) if number not in seen]
    if not seen or not absent or name == "calibration":
        return []
    shown = ", ".join(absent[:MOST_NAMED]) + (", ..." if len(absent) > MOST_NAMED else "")
    what = "nothing is learned of them" if name == "train" else "what a stage does to them is not seen"
    return [f"the {name} split has no sample of {len(absent)} of {len(classes)} classes ({shown}): {what}"]


def _faults_of(name: str, samples: Samples, classes: int) -> tuple[list[str], set[int]]:
    """Return the faults of a split, and the labels in it."""
    faults: list[str] = []
    unreadable: list[str] = []
    seen: set[int] = set()
    of_steps = False
    for batch in readable_batches(samples, CHUNK, unreadable):
        if bad := not_finite(batch.inputs):
            faults.append(f"data: the {name} split holds NaN or infinity (first in sample {bad[0]} of a batch)")
            break
        seen |= {int(label) for label in np.unique(batch.targets)}
        of_steps = batch.targets.ndim > 1
    if unreadable:
        return unreadable, set()
    judged = name in ("validation", "test") and not of_steps
    if judged and UNLABELLED in seen:
        faults.append(f"data: the {name} split has samples without a label; models are judged on it")
    known = seen - {UNLABELLED}
    if name != "calibration" and len(known) == 1:
        faults.append(f"data: the {name} split has one class only ({next(iter(known))}); nothing can be told apart")
    wrong = sorted(label for label in known if not 0 <= label < classes)
    if wrong:
        faults.append(f"data: the {name} split has labels {wrong[:5]}; allowed: 0 to {classes - 1}, -1 for none")
    return faults, known
