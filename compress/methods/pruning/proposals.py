"""Selection among proposed allocations: least damage within the budget, measured on whole models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.execution.progress import Progress, count_progress
from compress.methods.allocation.problem import Allocation
from compress.methods.cost_model import Costs
from compress.methods.pruning import budget

FINALISTS = 3
"""Proposals that are timed as whole models."""

Propose = Callable[[float], Allocation]
"""An allocation for a cost; raises ``OutOfReachError`` where there is none."""
Damage = Callable[[Allocation], float]


def least_damaging(
    proposals: Sequence[Propose],
    damage: Damage,
    costs: Costs,
    removed: Sequence[str],
    share: float,
    progress: Progress | None = None,
    earlier: list[tuple[Allocation, float]] | None = None,
) -> tuple[Allocation, float]:
    """Select the allocation of least ``damage`` within ``share``, and its cost; where none is within, the cheapest.

    All that was measured is compared: the sum of the pieces is off by more for some than for others, and where it is off
    by much, an allocation for a smaller budget may do less damage than one that uses the budget.

    Args:
        removed: blocks that are gone already.
        earlier: what was measured for other budgets, with its cost; what is measured now is added.

    Raises:
        OutOfReachError: none is within the budget by the sum.
    """
    last = shortlist(proposals, damage, share, progress=progress)
    seen = [
        each
        for proposal in count_progress(progress, "allocations timed whole", last)
        for each in budget.measure_allocations(proposal, costs, removed, share)
    ]
    if earlier is not None:
        earlier += seen
        seen = earlier
    within = [each for each in _different(seen) if each[1] <= share]
    return min(within, key=lambda each: damage(each[0])) if within else budget.best_within(seen, share)


def _different(seen: Sequence[tuple[Allocation, float]]) -> list[tuple[Allocation, float]]:
    distinct: dict[object, tuple[Allocation, float]] = {}
    for each in seen:
        distinct.setdefault((frozenset(each[0].widths.items()), frozenset(each[0].removed)), each)
    return list(distinct.values())


def shortlist(
    proposals: Sequence[Propose], damage: Damage, cost: float, most: int = FINALISTS, progress: Progress | None = None
) -> list[Propose]:
    """Return at ``most`` so many proposals whose allocations for a cost differ, the least damaging first."""
    distinct: list[tuple[Propose, Allocation]] = []
    for propose in count_progress(progress, "allocations proposed", proposals):
        allocation = propose(cost)
        if not any((allocation.widths, allocation.removed) == (other.widths, other.removed) for _, other in distinct):
            distinct.append((propose, allocation))
    ranked = sorted(distinct, key=lambda each: damage(each[1]))
    return [propose for propose, _ in ranked[:most]]
