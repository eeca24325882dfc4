"""Search for the best allocation: every combination of the hubs' widths, or moves from several where they are too many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from compress.methods.allocation.decomposition import Chosen, Decomposition, count_choices, find_hubs
from compress.methods.allocation.problem import Allocation, Curve, OutOfReachError, Problem, cost

MOST_COMBINATIONS = 4000
GAIN = 1e-12
"""Less is the rounding of sums."""


def allocate(problem: Problem) -> Allocation:
    """Find the allocation of greatest kept importance within the budget.

    Raises:
        OutOfReachError: there is none.
    """
    hubs = find_hubs(problem)
    decomposed = Decomposition(problem, hubs)
    best: Chosen | None = None
    least, many = math.inf, _too_many(problem, hubs)
    for held in _combinations(problem, hubs):
        choice, cheapest = decomposed.best(held)
        least = min(least, cheapest)
        if choice is not None and many:
            choice = _improved(decomposed, choice)
        if choice is not None and (best is None or choice.importance > best.importance):
            best = choice
    if best is None:
        raise OutOfReachError(least, problem.budget)
    return _as_allocation(problem, best)


def check_reach(problem: Problem) -> None:
    """Raise where ``allocate`` would, in a small part of its time: only what the cheapest costs is worked out.

    Raises:
        OutOfReachError: no allocation keeps the budget.
    """
    hubs = find_hubs(problem)
    decomposed = Decomposition(problem, hubs)
    least = min(decomposed.cheapest(held) for held in _combinations(problem, hubs))
    if least > problem.budget:
        raise OutOfReachError(least, problem.budget)


def uniform(problem: Problem) -> Allocation:
    """Allocate the same fraction of its widest to every group, the largest that keeps the budget; no block is removed.

    Raises:
        OutOfReachError: not even the smallest does.
    """
    fractions = sorted({w / max(c) for c in problem.curves.values() for w in c}, reverse=True)
    least = math.inf
    for fraction in fractions or [1.0]:
        widths = {g: min(c, key=lambda w, c=c: (abs(w - fraction * max(c)), w)) for g, c in problem.curves.items()}  # type: ignore[misc]
        spent = cost(problem, widths)
        least = min(least, spent)
        if spent <= problem.budget:
            kept = sum(problem.curves[g][w] for g, w in widths.items()) + sum(problem.block_importance.values())
            return Allocation(widths=widths, removed=(), importance=kept, cost=spent)
    raise OutOfReachError(least, problem.budget)


def _too_many(problem: Problem, hubs: Sequence[str]) -> bool:
    return count_choices(problem, hubs) > MOST_COMBINATIONS


def _combinations(problem: Problem, hubs: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every combination of the hubs' widths; where they are too many, some starts to search from."""
    if not _too_many(problem, hubs):
        for widths in itertools.product(*(problem.curves[h] for h in hubs)):
            yield dict(zip(hubs, widths, strict=True))
        return
    for fraction in (1.0, 0.75, 0.5, 0.25, 0.0):
        yield {h: min(problem.curves[h], key=lambda w, h=h: abs(w - fraction * max(problem.curves[h]))) for h in hubs}  # type: ignore[misc]


def _improved(decomposed: Decomposition, start: Chosen) -> Chosen:
    """The best found by moving one hub, or two against each other, until no move keeps more.

    After a gain the next move is tried, not the first again: of a detector's hundreds of gains each would else try hundreds
    of moves that were in vain before. Nor is a knapsack filled where the bound shows that it cannot keep more.
    """
    moves = _moves(decomposed.problem, decomposed.hubs)
    best, in_vain = start, 0
    held = {h: best.widths[h] for h in decomposed.hubs}
    price = decomposed.price(held)
    for move in itertools.cycle(moves):
        moved = move(held)
        may_gain = moved != held and decomposed.bound(moved, price) > best.importance + GAIN
        candidate = decomposed.best(moved)[0] if may_gain else None
        if candidate is not None and candidate.importance > best.importance + GAIN:
            best, held, in_vain = candidate, moved, 0
            price = decomposed.price(held)
        else:
            in_vain += 1
        if in_vain == len(moves):
            break
    return best


def _moves(problem: Problem, hubs: Sequence[str]) -> list[Callable[[Mapping[str, int]], dict[str, int]]]:
    """List the moves from held widths to others: each width of each hub, and a step up of one for a step down of another."""
    single = [partial(_set, hub=hub, width=width) for hub in hubs for width in problem.curves[hub]]
    pairs = itertools.permutations(hubs, 2)
    return [*single, *(partial(_exchanged, problem.curves, one=one, other=other) for one, other in pairs)]


def _set(held: Mapping[str, int], hub: str, width: int) -> dict[str, int]:
    return {**held, hub: width}


def _exchanged(curves: Mapping[str, Curve], held: Mapping[str, int], one: str, other: str) -> dict[str, int]:
    """Return the widths with ``one`` a step wider and ``other`` a step narrower; the same where either is at its end."""
    wider = min((w for w in curves[one] if w > held[one]), default=None)
    narrower = max((w for w in curves[other] if w < held[other]), default=None)
    return dict(held) if wider is None or narrower is None else {**held, one: wider, other: narrower}


def _as_allocation(problem: Problem, best: Chosen) -> Allocation:
    gone = {g for block in best.removed for g in problem.blocks[block]}
    widths = {g: best.widths[g] for g in problem.curves}
    return Allocation(
        widths={g: w for g, w in widths.items() if g not in gone},
        removed=best.removed,
        importance=best.importance,
        cost=cost(problem, widths, best.removed),
    )
