"""Tagging: any number of classes a sample; mean average precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from compress.tasks.draws import Weights, rows_drawn, values_of_draws
from deploy.engines.inputs import not_finite
from profiles.errors import UserError

CHUNK = 256
SORTING = 20
"""Steps that a value of average precision takes a score, for they are sorted."""


@final
class Tagging(Task):
    """Tagging: logits (samples, classes), each through a sigmoid of its own; targets (samples, classes) from 0 to 1.

    A row of -1 stands for no labels. The loss is the mean binary cross-entropy of a tag. The metric is the mean over classes
    of the average precision, in per cent: the mean, over the samples that have the tag, of the precision among all that
    score as high or higher. It is what Audio Set and scikit-learn's ``average_precision_score`` have. A class that no
    sample has does not count.
    """

    metric = "mAP"
    unit = "%"
    stage_losses = {
        "distill": ("task", {"use": "bce_kd", "weight": 1.0}, {"use": "cwd", "weight": 3.0}),
        "recovery": ({"use": "task", "weight": 0.1}, {"use": "bce_kd", "weight": 0.9}),
    }

    def check(self, splits: Splits) -> None:
        if faults := split_faults(splits, lambda name, samples: _faults_of(name, samples, len(splits.classes))):
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        expected = (2, len(splits.classes))
        given = first_shape(outputs)
        if given != expected:
            raise UserError(f"gives {given} for two samples; tagging of {expected[1]} classes reads {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the mean binary cross-entropy over the labelled samples' tags."""
        known = targets >= 0
        apart = functional.binary_cross_entropy_with_logits(
            self.logits(outputs), targets.clamp(min=0), weight=known.to(targets.dtype), reduction="sum"
        )
        return apart / known.sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """Return the first tensor of the outputs."""
        return first_output(outputs)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "tags"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return self._metric(*_answers(predict, samples), samples)

    def evaluate_samples(self, predict: Predict, samples: Samples) -> tuple[Metric, None]:
        scores, there = _answers(predict, samples)

        def value(weights: Weights) -> float:
            rows = rows_drawn(weights)
            return _mean(_precisions(scores[rows], there[rows]))

        drawn = values_of_draws(value, len(scores), SORTING * scores.size)
        return replace(self._metric(scores, there, samples), drawn=drawn), None

    def _metric(self, scores: npt.NDArray[Any], there: npt.NDArray[np.bool_], samples: Samples) -> Metric:
        names = samples.classes or tuple(str(label) for label in range(scores.shape[1]))
        precisions = _precisions(scores, there)
        others = {f"AP {names[label]}": value for label, value in precisions.items()}
        return Metric(name=self.metric, value=_mean(precisions), unit=self.unit, samples=len(samples), others=others)


def _answers(predict: Predict, samples: Samples) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the scores of all samples and whether each has each tag, both (samples, classes)."""
    parts = [(predict(batch.inputs)[0], batch.targets) for batch in samples.batches(CHUNK)]
    scores, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return scores, targets >= 0.5


def _precisions(scores: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> dict[int, float]:
    """Compute the average precision of each class that a sample has."""
    held = np.flatnonzero(there.any(axis=0))
    return {int(label): average_precision(scores[:, label], there[:, label]) for label in held}


def _mean(precisions: Mapping[int, float]) -> float:
    return float(np.mean(list(precisions.values()))) if precisions else 0.0


def average_precision(scores: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> float:
    """Compute the average precision in per cent of scores (samples,) for what is there (samples,); ties share one."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(there[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    gained = np.diff(hits[last], prepend=0)
    return 100.0 * float((gained * hits[last] / (last + 1)).sum() / hits[-1])


def _faults_of(name: str, samples: Samples, classes: int) -> list[str]:
    unreadable: list[str] = []
    tags = 0
    for batch in readable_batches(samples, CHUNK, unreadable):
        if batch.targets.shape[1:] != (classes,):
            words = f"tagging reads 0 or 1 for each class, (samples, {classes})"
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; {words}"]
        if not_finite(batch.inputs) or not np.isfinite(batch.targets).all():
            return [f"data: the {name} split holds NaN or infinity"]
        if ((batch.targets > 1) | ((batch.targets < 0) & (batch.targets != -1))).any():
            return [f"data: the {name} split has targets outside 0 to 1; -1 stands for none"]
        tags += int((batch.targets >= 0.5).sum())
    if unreadable:
        return unreadable
    if name in ("validation", "test") and not tags:
        return [f"data: the {name} split has no tag; models are judged on it"]
    return []
