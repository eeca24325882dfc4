"""Weights of losses: fixed, scheduled, or adapted to a share of the gradient.

A weight is a small module: ``at`` returns its value in a step; one that ``observes_gradient`` is given its loss's share of
the gradient. Its keyword parameters are its settings in a recipe, its buffers are kept with the training.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import nn

from compress.losses.base import TrainingStep
from compress.methods.distillation.sample_weights import SampleWeight
from profiles.errors import UserError

WEIGHTS: dict[str, str] = {
    "fixed": "compress.methods.distillation.loss_weights:FixedWeight",
    "scheduled": "compress.methods.distillation.loss_weights:ScheduledWeight",
    "gradient_share": "compress.methods.distillation.loss_weights:GradientShare",
    "learned": "compress.methods.distillation.sample_weights:LearnedWeight",
    "familiar": "compress.methods.distillation.sample_weights:FamiliarityWeight",
}


class Weight(nn.Module):
    """The weight of a loss. Subclasses are final."""

    observes_gradient: ClassVar[bool] = False

    @abstractmethod
    def at(self, step: TrainingStep) -> float:
        """Return the weight in a step."""

    def measures_at(self, step: TrainingStep) -> bool:
        """Return whether to measure the gradient's shares in a step: it costs a backward pass for each loss."""
        return False

    def observe(self, share: float) -> None:
        """Record the share, 0 to 1, of this loss in the sum of all losses' gradients (L1) over the student."""


@final
class FixedWeight(Weight):
    """A constant weight."""

    def __init__(self, *, value: float = 1.0) -> None:
        super().__init__()
        self._value = value

    def at(self, step: TrainingStep) -> float:
        """Return the weight in a step."""
        return self._value


@final
class ScheduledWeight(Weight):
    """A weight that goes from ``start`` to ``end`` between two points of the training, each a share of it."""

    def __init__(
        self,
        *,
        start: float = 0.0,
        end: float = 1.0,
        begins: float = 0.0,
        ends: float = 0.1,
        shape: Literal["linear", "cosine"] = "linear",
    ) -> None:
        super().__init__()
        if not 0 <= begins < ends <= 1 or min(start, end) < 0 or shape not in ("linear", "cosine"):
            raise UserError(
                "weight scheduled: 0 <= begins < ends <= 1, start and end of at least 0, shape linear or cosine; given: "
                f"begins {begins}, ends {ends}, start {start}, end {end}, shape {shape}"
            )
        self._start, self._end, self._begins, self._ends, self._shape = start, end, begins, ends, shape

    def at(self, step: TrainingStep) -> float:
        """Return the weight in a step."""
        share = min(1.0, max(0.0, (step.progress - self._begins) / (self._ends - self._begins)))
        if self._shape == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
        return self._start + (self._end - self._start) * share


@final
class GradientShare(Weight):
    """A weight that holds its loss at ``share`` of the gradient (gradient-guided adaptive modulation, RT-DETRv4, paper 20).

    At an epoch's end, where the mean share g of the epoch is off by more than ``tolerance``, the weight is multiplied by
    share (1 - g) / (g (1 - share)), at most tenfold either way: with gradients as they were, that hits the share. The paper
    takes the share of the encoder's gradient in the model's; here it is the loss's in the sum of all losses'.

    Args:
        start: the weight of the first epoch.
        every: steps from one measurement to the next.
    """

    observes_gradient = True
    weight: torch.Tensor
    seen: torch.Tensor

    def __init__(self, *, start: float = 1.0, share: float = 0.1, tolerance: float = 0.01, every: int = 10) -> None:
        super().__init__()
        if not (start > 0 and 0 < share < 1 and tolerance >= 0 and every >= 1):
            raise UserError(
                "weight gradient_share: start above 0, share between 0 and 1, tolerance of at least 0, every of at least 1; "
                f"given: start {start}, share {share}, tolerance {tolerance}, every {every}"
            )
        self._share, self._tolerance, self._every = share, tolerance, every
        self.register_buffer("weight", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))  # epoch, sum and count of its measurements

    def at(self, step: TrainingStep) -> float:
        """Return the weight in a step, adapted at the first step of an epoch."""
        if step.epoch > int(self.seen[0]):
            self._adjust()
            self.seen.copy_(torch.tensor([float(step.epoch), 0.0, 0.0]))
        return float(self.weight)

    def measures_at(self, step: TrainingStep) -> bool:
        """Return whether to measure the gradient's shares in a step."""
        return step.step % self._every == 0

    def observe(self, share: float) -> None:
        """Record this loss's share of the gradient, 0 to 1."""
        self.seen[1] += share
        self.seen[2] += 1

    def _adjust(self) -> None:
        if self.seen[2] == 0:
            return
        share = min(1 - 1e-6, max(1e-6, float(self.seen[1] / self.seen[2])))
        if abs(share - self._share) > self._tolerance:
            factor = self._share * (1 - share) / (share * (1 - self._share))
            self.weight.mul_(min(10.0, max(0.1, factor)))


def make_weight(
    given: float | Mapping[str, Any], kinds: Mapping[str, Any], example: Mapping[str, Any] | None = None
) -> Weight | SampleWeight:
    """Build the weight that a recipe gives: a number, or a table with ``use`` and settings.

    Args:
        example: what it reads, on two samples, where its parts take their shapes from that.
    """
    if isinstance(given, int | float):
        return FixedWeight(value=float(given))
    settings = {key: value for key, value in given.items() if key != "use"}
    weight: Weight | SampleWeight = kinds[given["use"]](*([] if example is None else [example]), **settings)
    return weight
