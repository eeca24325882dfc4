"""Of the allocations that measured damage proposes, the least harmful at the budget as it is measured whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.execution.progress import Progress, count_progress
from compress.methods.allocation import Allocation
from compress.methods.cost_model import Costs
from compress.methods.pruning import budget

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

    All that was measured is compared: the sum of the pieces is off by more for some than for others, and where it is off
    by much, what was asked for less may be less harmful than what uses the budget.

    Args:
        removed: blocks that are gone already.

    Raises:
        OutOfReachError: none is within the budget by the sum.
    """
    last = finalists(ways, harm, share, progress=progress)
    seen = [
        each
        for way in count_progress(progress, "allocations timed whole", last)
        for each in budget.tried(way, costs, removed, share)
    ]
    within = [each for each in _different(seen) if each[1] <= share]
    return min(within, key=lambda each: harm(each[0])) if within else budget.held(seen, share)


def _different(seen: Sequence[tuple[Allocation, float]]) -> list[tuple[Allocation, float]]:
    found: dict[object, tuple[Allocation, float]] = {}
    for each in seen:
        found.setdefault((frozenset(each[0].widths.items()), frozenset(each[0].removed)), each)
    return list(found.values())


def finalists(
    ways: Sequence[Propose], harm: Harm, cost: float, most: int = FINALISTS, progress: Progress | None = None
) -> list[Propose]:
    """At ``most`` so many that propose different allocations for a cost, the least harmful first."""
    found: list[tuple[Propose, Allocation]] = []
    for propose in count_progress(progress, "allocations proposed", ways):
        made = propose(cost)
        if not any((made.widths, made.removed) == (other.widths, other.removed) for _, other in found):
            found.append((propose, made))
    ranked = sorted(found, key=lambda each: harm(each[1]))
    return [propose for propose, _ in ranked[:most]]
