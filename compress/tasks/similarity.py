"""Similarity: embeddings of sentences; rank correlation of their cosines with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from compress.tasks.draws import Weights, rows_drawn, values_of_draws
from profiles.errors import UserError

CHUNK = 256
LEAST_PAIRS = 3
"""Pairs of a split that models are judged on: two have no correlation that says anything."""

TINY = 1e-12
SORTING = 40
"""Steps that a value of a rank correlation takes a pair, for both sides are sorted."""


@final
class Similarity(Task):
    """Similarity of sentences: an embedding a sample, (samples, width); targets (samples, 2), a pair's number and its score.

    The metric is Spearman's correlation of the cosine of a pair's embeddings with its score, times 100, 0 where it is
    negative (the figure of the STS Benchmark). There is no loss on labels: students learn the teacher's embeddings.
    """

    metric = "spearman"
    unit = ""
    scale = 100.0
    stage_losses = {
        "distill": ({"use": "l2", "weight": 100.0}, {"use": "rkd", "weight": 1.0}),
        "recovery": ({"use": "l2", "weight": 100.0},),
    }

    def check(self, splits: Splits) -> None:
        if faults := split_faults(splits, _faults_of):
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return False

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        given = first_shape(outputs)
        if len(given) != 2 or isinstance(given, str):
            raise UserError(f"gives {given} for two samples; similarity reads an embedding of each, (2, width)")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Raise: pairs are compared, and a batch does not hold both of each."""
        raise UserError("similarity has no loss on labels; a teacher needs weights, and students learn from it alone")

    def logits(self, outputs: Any) -> Tensor:
        """Return the embeddings, the first tensor of the outputs."""
        return first_output(outputs)

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "embedding"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        parts = [(predict(batch.inputs)[0], batch.targets) for batch in samples.batches(CHUNK)]
        embeddings, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        pairs = _pairs(targets[:, 0])
        alike, wanted = cosines(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]), targets[pairs[:, 0], 1]
        rank = spearman(alike, wanted)

        def value(weights: Weights) -> float:
            rows = rows_drawn(weights)
            return 100 * max(spearman(alike[rows], wanted[rows]), 0.0)

        drawn = values_of_draws(value, len(pairs), SORTING * len(pairs))
        others = {} if rank >= 0 else {"spearman itself": 100 * rank}
        figure = 100 * max(rank, 0.0)
        return Metric(name=self.metric, value=figure, unit=self.unit, samples=len(pairs), others=others, drawn=drawn)


def _faults_of(name: str, samples: Samples) -> list[str]:
    faults: list[str] = []
    numbers: list[npt.NDArray[Any]] = []
    for batch in readable_batches(samples, CHUNK, faults):
        if batch.targets.ndim != 2 or batch.targets.shape[1] != 2:
            words = "a pair's number and its score, (samples, 2)"
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; similarity: {words}"]
        numbers.append(batch.targets[:, 0])
    if not faults and name in ("validation", "test") and len(_pairs(np.concatenate(numbers))) < LEAST_PAIRS:
        faults.append(f"data: the {name} split has less than {LEAST_PAIRS} whole pairs; models are judged on them")
    return faults


def _pairs(numbers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the places of both sentences of each pair that is whole, (pairs, 2)."""
    order = np.argsort(numbers, kind="stable")
    same = np.flatnonzero(np.diff(numbers[order]) == 0)
    return np.stack([order[same], order[same + 1]], axis=1)


def cosines(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the cosine of each pair of rows, (pairs,)."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, TINY)
    return result


def spearman(values: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    """Compute Spearman's rank correlation, ties at their mean rank; 0 where one side is constant.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 9.0]))
        0.8
    """
    ours, theirs = (_ranks(each) for each in (values, scores))
    spread = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))
    return round(float((ours * theirs).sum()) / spread, 12) if spread > 0 else 0.0


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return ranks less their mean; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ((ends - counts + ends - 1) / 2)[places]
    return np.asarray(ranks - ranks.mean(), np.float64)
