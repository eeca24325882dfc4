"""Allocations that measured damage proposes: which are worth timing as whole models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from compress.allocation import Allocation

Propose = Callable[[float], Allocation]
"""An allocation for a cost; raises ``OutOfReachError`` where there is none."""


@final
@dataclass(frozen=True)
class Proposals:
    """What proposes, one for each way of adding damages up, and how much harm an allocation does as a whole."""

    ways: Sequence[Propose]
    harm: Callable[[Allocation], float]

    def finalists(self, cost: float, most: int) -> list[Propose]:
        """At ``most`` so many that propose different allocations for a cost, the least harmful first."""
        found: list[tuple[Propose, Allocation]] = []
        for propose in self.ways:
            made = propose(cost)
            if not any((made.widths, made.removed) == (other.widths, other.removed) for _, other in found):
                found.append((propose, made))
        ranked = sorted(found, key=lambda each: self.harm(each[1]))
        return [propose for propose, _ in ranked[:most]]
