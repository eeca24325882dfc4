"""A budget of questions to the teacher: which samples it is asked about, and what it said (RAD, 2022, paper 75).

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
from compress.tasks import Task

CHUNK = 256
ANSWERED = ("teacher_logits", "teacher_embedding")
"""What can be kept of a sample, whatever batch it comes in."""

Numbers = npt.NDArray[np.float64]
LEAST = 1e-6


@final
class TeacherAnswers:
    """What the teacher said of the samples that it was asked about: each once, as it is, without augmentation.

    Attributes:
        indices: of the training split, in the order in which they were asked.
    """

    def __init__(self) -> None:
        self.indices: Indices = np.empty(0, np.int64)
        self._said: dict[str, Tensor] = {}

    def read(self, places: Indices) -> dict[str, Tensor]:
        """The signals of those that stand at ``places`` of ``indices``."""
        rows = torch.from_numpy(places)
        return {name: value[rows].float() for name, value in self._said.items()}

    def ask(self, objective: Objective, samples: Samples, chosen: Indices, kept: Path) -> None:
        """Ask about further samples; what was said is kept in a file, and read from there the next time.

        Of several processes one asks.
        """
        if distributed.is_main() and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(kept, {"indices": torch.from_numpy(chosen), **_said(objective, samples, chosen)})
        distributed.wait()
        found = load_tensors(kept)[0]
        self.indices = np.concatenate([self.indices, found.pop("indices").numpy()])
        self._said = {k: torch.cat([*([self._said[k]] if k in self._said else []), v]) for k, v in found.items()}


def _said(objective: Objective, samples: Samples, chosen: Indices) -> dict[str, Tensor]:
    said: dict[str, list[Tensor]] = {}
    with objective:
        for start in range(0, len(chosen), CHUNK):
            batch = samples.load(chosen[start : start + CHUNK])
            answer = objective.ask_teacher(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
            for name, value in answer.items():
                said.setdefault(name, []).append(value.half())
    return {name: torch.cat(values) for name, values in said.items()}


def gains(module: nn.Module, task: Task, samples: Samples) -> Numbers:
    """One minus the margin of a student's two largest probabilities, for each sample of a split, (samples,)."""
    module.eval()
    found: list[npt.NDArray[Any]] = []
    with torch.no_grad():
        for batch in samples.batches(CHUNK):
            logits = task.logits(module(torch.from_numpy(batch.inputs))).float()
            first, second = logits.softmax(dim=-1).topk(2).values.unbind(-1)
            found.append((1 - (first - second)).double().numpy())
    return np.concatenate(found)


def strategy(worth: Numbers, errs: int, count: int) -> Numbers:
    """How probably each of n samples is drawn, (n,): best against the worst ``errs`` of them, at least ``count`` above 0.

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


def choose(worth: Numbers, asked: Indices, count: int, distrust: float, seed: tuple[int, ...]) -> Indices:
    """Which ``count`` samples to ask about next, none of which was ``asked``; fewer when there are no more.

    Args:
        distrust: share of the samples on which the teacher may be wrong; 0 takes those of largest gain.
    """
    left = np.setdiff1d(np.arange(len(worth)), asked)
    count = min(count, len(left))
    chances = strategy(worth[left], round(distrust * len(left)), count)
    return np.sort(np.random.default_rng(seed).choice(left, count, replace=False, p=chances)).astype(np.int64)
