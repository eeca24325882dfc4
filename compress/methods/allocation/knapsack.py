"""A multiple-choice knapsack: of each part one choice, their value greatest within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

BINS = 2000
"""Into which the budget is divided; costs are rounded up, so a budget is kept, and at most parts / BINS of it is unused."""


@final
@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option of a part: the widths of its groups, the block that goes, its value and cost."""

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    value: float
    cost: float


@final
class Part:
    """Choices of which one is taken, with their values and costs as arrays."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self.values = np.array([choice.value for choice in choices])
        self.costs = np.array([choice.cost for choice in choices])

    def net(self, price: float) -> tuple[float, float]:
        """The greatest value less the cost at a price, and the cost of the choice that has it."""
        net = self.values - price * self.costs
        at = int(net.argmax())
        return float(net[at]), float(self.costs[at])


def knapsack(parts: Sequence[Part], budget: float) -> list[Choice] | None:
    """One choice of each part, their value greatest within the budget; None when rounding leaves none.

    The cheapest choices are paid first and exactly; only what is left is divided into bins.
    """
    left = budget - sum(float(part.costs.min()) for part in parts)
    if left < 0:
        return None
    value: npt.NDArray[np.float64] = np.zeros(BINS + 1)
    taken = []
    for part in parts:
        bins = _bins(part, left / BINS)
        best: npt.NDArray[np.float64] = np.full(BINS + 1, -np.inf)
        pick: npt.NDArray[np.int64] = np.zeros(BINS + 1, np.int64)
        for index, (more, worth) in enumerate(zip(bins, part.values, strict=True)):
            if more > BINS:
                continue
            candidate, reached = value[: BINS + 1 - more] + worth, best[more:]
            better = candidate > reached
            np.copyto(reached, candidate, where=better)
            np.copyto(pick[more:], index, where=better)
        value = best
        taken.append((bins, pick))
    at, chosen = BINS, []
    for part, (bins, pick) in zip(reversed(parts), reversed(taken), strict=True):
        chosen.append(part.choices[pick[at]])
        at -= bins[pick[at]]
    return chosen


def _bins(part: Part, size: float) -> list[int]:
    """How many bins each choice takes more than the cheapest, rounded up; of no size, those that cost more take too many."""
    extra = part.costs - part.costs.min()
    return [0 if more <= 0 else (math.ceil(more / size - 1e-9) if size > 0 else BINS + 1) for more in extra.tolist()]
