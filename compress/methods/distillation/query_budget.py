"""Query selection under a budget of teacher queries, robust to teacher errors (RAD, 2022, paper 75).

A sample is worth the student's doubt, g = 1 - (largest - second largest probability). Where the teacher is wrong nobody
knows, so the choice is the best against the worst case: of m samples on which it errs, an adversary takes those that hurt
most. Drawing from the k of largest gain with probabilities proportional to 1 / g gains (k - m) / sum of 1 / g over them,
whatever they take; k is what makes that largest. (The paper's formula could be read in an abstract only; this is its game
solved.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data import Samples
from compress.data.base import Indices
from compress.execution import distributed
from compress.methods.distillation.objective import Objective
from compress.models.checkpoint import load_tensors, save_tensors
from compress.models.inputs import as_tensors, call
from compress.tasks import Task

CHUNK = 256
STORED_SIGNALS = ("teacher_logits", "teacher_embedding")
"""Signals of a sample that do not depend on its batch, so that they can be stored."""

Numbers = npt.NDArray[np.float64]
LEAST = 1e-6


@final
class QueriedSignals:
    """Teacher signals of the queried samples: each queried once, without augmentation.

    Attributes:
        indices: of the training split, in the order of the queries.
    """

    def __init__(self) -> None:
        self.indices: Indices = np.empty(0, np.int64)
        self._signals: dict[str, Tensor] = {}

    @classmethod
    def of(cls, signals: dict[str, Tensor]) -> QueriedSignals:
        """Take signals of a whole split, (samples, ...), as answers that are there already."""
        made = cls()
        made.indices = np.arange(len(next(iter(signals.values()))))
        made._signals = dict(signals)
        return made

    def read(self, places: Indices) -> dict[str, Tensor]:
        """Return the signals at positions ``places`` of ``indices``."""
        rows = torch.from_numpy(places)
        return {name: value[rows].float() for name, value in self._signals.items()}

    def query(self, objective: Objective, samples: Samples, chosen: Indices, file: Path) -> None:
        """Query the teacher on further samples; signals are stored in ``file`` and read from there the next time.

        Of several processes one queries.
        """
        if distributed.is_main() and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(file, {"indices": torch.from_numpy(chosen), **_signals(objective, samples, chosen)})
        distributed.wait()
        stored = load_tensors(file)[0]
        self.indices = np.concatenate([self.indices, stored.pop("indices").numpy()])
        self._signals = {k: torch.cat([*([self._signals[k]] if k in self._signals else []), v]) for k, v in stored.items()}


def _signals(objective: Objective, samples: Samples, chosen: Indices) -> dict[str, Tensor]:
    signals: dict[str, list[Tensor]] = {}
    with objective:
        for start in range(0, len(chosen), CHUNK):
            batch = samples.load(chosen[start : start + CHUNK])
            batch_signals = objective.teacher_signals(as_tensors(batch.inputs), torch.from_numpy(batch.targets))
            for name, value in batch_signals.items():
                signals.setdefault(name, []).append(value.half())
    return {name: torch.cat(values) for name, values in signals.items()}


def uncertainties(module: nn.Module, task: Task, samples: Samples) -> Numbers:
    """Compute one minus the margin of a student's two largest probabilities, for each sample of a split, (samples,)."""
    module.eval()
    chunks: list[npt.NDArray[Any]] = []
    with torch.no_grad():
        for batch in samples.batches(CHUNK):
            logits = task.logits(call(module, as_tensors(batch.inputs))).float()
            first, second = logits.softmax(dim=-1).topk(2).values.unbind(-1)
            chunks.append((1 - (first - second)).double().numpy())
    return np.concatenate(chunks)


def sampling_probabilities(worth: Numbers, errs: int, count: int) -> Numbers:
    """Compute minimax sampling probabilities of n samples, (n,), against the worst ``errs``; at least ``count`` above 0.

    Args:
        worth: of each sample where the teacher is right, (n,); 0 where it is wrong.
    """
    order = np.argsort(-worth, kind="stable")
    inverse = 1 / np.maximum(worth[order], LEAST)
    drawn = np.arange(1, len(worth) + 1)
    value = (drawn - errs) / np.cumsum(inverse)
    least = min(count, len(worth))
    k = least + int(np.argmax(value[least - 1 :]))
    chances = np.zeros(len(worth))
    chances[order[:k]] = inverse[:k] / inverse[:k].sum()
    return chances


def select_queries(worth: Numbers, queried: Indices, count: int, distrust: float, seed: tuple[int, ...]) -> Indices:
    """Select the next ``count`` samples to query, none of which was ``queried``; fewer when there are no more.

    Args:
        distrust: share of the samples on which the teacher may be wrong; 0 takes those of largest gain.
    """
    left = np.setdiff1d(np.arange(len(worth)), queried)
    count = min(count, len(left))
    chances = sampling_probabilities(worth[left], round(distrust * len(left)), count)
    return np.sort(np.random.default_rng(seed).choice(left, count, replace=False, p=chances)).astype(np.int64)
