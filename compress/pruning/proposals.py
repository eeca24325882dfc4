"""Of the allocations that measured damage proposes, the least harmful at the budget as it is measured whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.allocation import Allocation
from compress.costs import Costs
from compress.progress import Progress, counted
from compress.pruning import budget

FINALISTS = 3
"""Proposals that are timed as whole models."""

Propose = Callable[[float], Allocation]
"""An allocation for a cost; raises ``OutOfReachError`` where there is none."""
Harm = Callable[[Allocation], float]


def least_harmful(
    ways: Sequence[Propose],
    harm: Harm,
    costs: Costs,
    removed: Sequence[str],
    share: float,
    progress: Progress | None = None,
) -> tuple[Allocation, float]:
    """The allocation of least ``harm`` within ``share``, and its cost; where none is within, the cheapest.

    The finalists are compared once each is held to the budget: the sum of the pieces is off by more for some than for
    others.

    Args:
        removed: blocks that are gone already.

    Raises:
        OutOfReachError: none is within the budget by the sum.
    """
    last = finalists(ways, harm, share, progress=progress)
    held = [budget.held(way, costs, removed, share) for way in counted(progress, "allocations timed whole", last)]
    within = [each for each in held if each[1] <= share]
    return min(within, key=lambda each: harm(each[0])) if within else min(held, key=lambda each: each[1])


def finalists(
    ways: Sequence[Propose], harm: Harm, cost: float, most: int = FINALISTS, progress: Progress | None = None
) -> list[Propose]:
    """At ``most`` so many that propose different allocations for a cost, the least harmful first."""
    found: list[tuple[Propose, Allocation]] = []
    for propose in counted(progress, "allocations proposed", ways):
        made = propose(cost)
        if not any((made.widths, made.removed) == (other.widths, other.removed) for _, other in found):
            found.append((propose, made))
    ranked = sorted(found, key=lambda each: harm(each[1]))
    return [propose for propose, _ in ranked[:most]]
