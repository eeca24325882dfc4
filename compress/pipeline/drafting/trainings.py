"""How long trainings may be: epochs of each from the time that an epoch takes here, and the time that there is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.models.layers import BATCH_NORMS, flat_tensors

TIMED_STEPS = 2
TEACHER_SHARE = 0.4
"""Of a step with a teacher attached, over one without: its forward pass."""
NARROW_SHARE = 0.4
"""Cost of a student of half the width, over its teacher's."""
MOST_EPOCHS = {"classification": 30, "detection": 60, "segmentation": 60}
LARGEST_BATCH = 128
MOST_FINE_TUNING, MOST_PRUNE, MOST_QUANTIZE = 10, 15, 8


@final
@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Epochs of each training; 0 for one that there is no time for.

    Attributes:
        epoch_seconds: of the model on the training split, on this machine.
    """

    teacher: int
    student: int
    prune: int
    quantize: int
    epoch_seconds: float


@final
@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """Settings of trainings.

    Attributes:
        fresh, fine: rates for random weights, and for trained ones.
    """

    optimizer: str
    fresh: float
    fine: float
    weight_decay: float


def step_seconds(module: nn.Module, example: Tensor) -> float:
    """Time forward and backward pass of a batch where trainings run; seconds a sample."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, example = module.to(device).train(), example.to(device)
    best = math.inf
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        sum(tensor.float().square().mean() for tensor in flat_tensors(module(example))).backward()  # type: ignore[union-attr]
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    module.zero_grad(set_to_none=True)
    module.cpu().eval()
    return best / len(example)


def plan_trainings(
    epoch_seconds: float, minutes: float, task: str, *, learns: bool, fine_tuned: bool, narrowed: bool
) -> Trainings:
    """Share ``minutes`` among the trainings of a recipe.

    Args:
        learns: whether the teacher is trained here; ``fine_tuned``: from weights of other classes.
        narrowed: whether the student is the teacher at half its width, and learns from it; else it is pruned.
    """
    taught = epoch_seconds * (1 + TEACHER_SHARE)
    shares = {"teacher": 0.4, "student": 0.4, "quantize": 0.2} if learns else {"student": 0.7, "quantize": 0.3}
    cost = {"teacher": epoch_seconds, "student": taught * (NARROW_SHARE if narrowed else 1), "quantize": taught}
    whole = {name: int(60 * minutes * share / cost[name]) for name, share in shares.items()}
    most = MOST_FINE_TUNING if fine_tuned else MOST_EPOCHS[task]
    return Trainings(
        teacher=max(1, min(most, whole["teacher"])) if learns else 0,
        student=max(1, min(MOST_EPOCHS[task], whole["student"])) if narrowed else 0,
        prune=0 if narrowed else min(MOST_PRUNE, whole["student"]),
        quantize=min(MOST_QUANTIZE, whole["quantize"]),
        epoch_seconds=epoch_seconds,
    )


def choose_batch(samples: int, task: str, side: int) -> int:
    """Choose a batch size: at least twenty steps an epoch, and few enough images for a CPU."""
    most = 8 if task != "classification" else LARGEST_BATCH if side <= 64 else 32
    return max(8, min(most, 1 << int(math.log2(max(8, samples / 20)))))


def choose_optimisation(module: nn.Module | None, task: str, batch: int) -> Optimisation:
    """Choose optimizer and rates by the task, the batch, and whether the model has batch norms or is a transformer."""
    if task != "classification":
        return Optimisation(optimizer="adamw", fresh=0.003, fine=0.0003, weight_decay=0.05)
    parts: list[Any] = [] if module is None else list(module.modules())
    attends = any(isinstance(part, nn.LayerNorm) for part in parts) and not any(isinstance(p, BATCH_NORMS) for p in parts)
    if attends:
        return Optimisation(optimizer="adamw", fresh=0.001, fine=0.0001, weight_decay=0.05)
    share = batch / LARGEST_BATCH  # rates of SGD go with the batch (Goyal et al. 2017)
    return Optimisation(optimizer="sgd", fresh=0.1 * share, fine=0.02 * share, weight_decay=5e-4)
