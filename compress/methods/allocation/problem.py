"""What is allocated: groups with curves of importance, terms of cost, one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

Curve = Mapping[int, float]
"""Importance kept at each width that a group may have."""


@final
@dataclass(frozen=True, kw_only=True)
class Term:
    """Term of the cost.

    Attributes:
        groups: on whose widths it depends, in the order in which ``cost`` takes them.
        block: that it is part of; it costs nothing when the block is removed.
    """

    groups: tuple[str, ...]
    cost: Callable[[Sequence[int]], float]
    block: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Problem:
    """Groups, blocks and cost terms of an allocation, with its budget.

    Attributes:
        curves: of each group.
        blocks: of each removable block, the groups that go with it; they then keep nothing.
        block_importance: kept by each removable block besides its groups'.
        budget: largest sum of all terms.
    """

    curves: Mapping[str, Curve]
    terms: Sequence[Term]
    budget: float
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    block_importance: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Width of every group that stays and the blocks that go, with importance kept and cost."""

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    importance: float
    cost: float


class OutOfReachError(Exception):
    """No allocation keeps the budget; ``least`` is the cost of the cheapest."""

    def __init__(self, least: float, budget: float) -> None:
        super().__init__(f"the cheapest choice costs {least:g}; the budget is {budget:g}")
        self.least, self.budget = least, budget


def cost(problem: Problem, widths: Mapping[str, int], removed: Sequence[str] = ()) -> float:
    """Sum all terms outside of removed blocks."""
    gone = set(removed)
    return sum(t.cost([widths[g] for g in t.groups]) for t in problem.terms if t.block is None or t.block not in gone)
