"""Allocation of widths and removed blocks under one budget: a knapsack over a cost table.

After HALP (Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack"): kept importance is the value, measured
latency the weight, one budget for all. What a layer costs depends on the groups on both its sides, so items are not
independent. HALP prices a layer at its neighbours' present widths; here the few groups that couple the others (residual
streams) are held at each combination of their widths in turn. Given those, the rest falls into small parts that share no
cost term, and a multiple-choice knapsack by dynamic programming is exact, up to ``BINS``. Where the combinations are too
many, hubs move one at a time from several starts, which is a local search and no longer proven best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final

import numpy as np
import numpy.typing as npt

BINS = 2000
"""Into which the budget is divided; costs are rounded up, so a budget is kept, and at most parts / BINS of it is unused."""
MOST_COMBINATIONS = 4000
GAIN = 1e-12
"""Less is the rounding of sums."""
HALVINGS, MOST_PRICE = 24, 2.0**60
"""With which a price is found; any price gives a bound, a near one a tight one."""
MOST_CHOICES = 600
"""Of one part: as many as its groups' widths have combinations."""

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


def allocate(problem: Problem) -> Allocation:
    """Find the allocation of greatest kept importance within the budget.

    Raises:
        OutOfReachError: there is none.
    """
    hubs = _hubs(problem)
    given = _Given(problem, hubs)
    best: _Chosen | None = None
    least, many = math.inf, _too_many(problem, hubs)
    for held in _combinations(problem, hubs):
        choice, cheapest = given.best(held)
        least = min(least, cheapest)
        if choice is not None and many:
            choice = _improved(given, choice)
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
    hubs = _hubs(problem)
    given = _Given(problem, hubs)
    least = min(given.cheapest(held) for held in _combinations(problem, hubs))
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


def cost(problem: Problem, widths: Mapping[str, int], removed: Sequence[str] = ()) -> float:
    """Sum all terms outside of removed blocks."""
    gone = set(removed)
    return sum(t.cost([widths[g] for g in t.groups]) for t in problem.terms if t.block is None or t.block not in gone)


@final
@dataclass(frozen=True, kw_only=True)
class _Chosen:
    widths: Mapping[str, int]
    removed: tuple[str, ...]
    importance: float


@final
@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One option of a part: the widths of its groups, the block that goes, its value and cost."""

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    value: float
    cost: float


@final
class _Part:
    """Choices of which one is taken, with their values and costs as arrays."""

    def __init__(self, choices: Sequence[_Choice]) -> None:
        self.choices = choices
        self.values = np.array([choice.value for choice in choices])
        self.costs = np.array([choice.cost for choice in choices])

    def net(self, price: float) -> tuple[float, float]:
        """The greatest value less the cost at a price, and the cost of the choice that has it."""
        net = self.values - price * self.costs
        at = int(net.argmax())
        return float(net[at]), float(self.costs[at])


def _hubs(problem: Problem) -> tuple[str, ...]:
    """Groups to hold, so that the others fall into parts of few choices: those that touch most others first.

    Those that a block without groups of its own reads are held from the start: the block is then an item by itself.
    """
    bare = {block for block, groups in problem.blocks.items() if not any(g in problem.curves for g in groups)}
    hubs = list(dict.fromkeys(g for t in problem.terms if t.block in bare for g in t.groups))
    while True:
        parts = _parts(problem, hubs)
        large = [part for part in parts if _choices(problem, part) > MOST_CHOICES]
        if not large:
            return tuple(hubs)
        touching = {g: len({o for t in problem.terms if g in t.groups for o in t.groups}) for part in large for g in part}
        hubs.append(max(touching, key=lambda g: (touching[g], -len(hubs))))


def _choices(problem: Problem, part: Sequence[str]) -> int:
    return math.prod(len(problem.curves[g]) for g in part)


def _parts(problem: Problem, hubs: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups that share a term or a block, once the hubs are held."""
    root = {g: g for g in problem.curves if g not in hubs}

    def find(group: str) -> str:
        while root[group] != group:
            root[group] = root[root[group]]
            group = root[group]
        return group

    for together in (*(t.groups for t in problem.terms), *problem.blocks.values()):
        free = [g for g in together if g in root]
        for other in free[1:]:
            root[find(free[0])] = find(other)
    parts: dict[str, list[str]] = {}
    for group in root:
        parts.setdefault(find(group), []).append(group)
    return [tuple(part) for part in parts.values()]


def _too_many(problem: Problem, hubs: Sequence[str]) -> bool:
    return _choices(problem, hubs) > MOST_COMBINATIONS


def _combinations(problem: Problem, hubs: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every combination of the hubs' widths; where they are too many, some starts to search from."""
    if not _too_many(problem, hubs):
        for widths in itertools.product(*(problem.curves[h] for h in hubs)):
            yield dict(zip(hubs, widths, strict=True))
        return
    for fraction in (1.0, 0.75, 0.5, 0.25, 0.0):
        yield {h: min(problem.curves[h], key=lambda w, h=h: abs(w - fraction * max(problem.curves[h]))) for h in hubs}  # type: ignore[misc]


def _improved(given: _Given, start: _Chosen) -> _Chosen:
    """The best found by moving one hub, or two against each other, until no move keeps more.

    After a gain the next move is tried, not the first again: of a detector's hundreds of gains each would else try hundreds
    of moves that were in vain before. Nor is a knapsack filled where the bound shows that it cannot keep more.
    """
    moves = _moves(given.problem, given.hubs)
    best, in_vain = start, 0
    held = {h: best.widths[h] for h in given.hubs}
    price = given.price(held)
    for move in itertools.cycle(moves):
        moved = move(held)
        may_gain = moved != held and given.bound(moved, price) > best.importance + GAIN
        candidate = given.best(moved)[0] if may_gain else None
        if candidate is not None and candidate.importance > best.importance + GAIN:
            best, held, in_vain = candidate, moved, 0
            price = given.price(held)
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


@final
class _Given:
    """The best choice for any widths of the hubs; a part is worked out once for those that its cost depends on."""

    def __init__(self, problem: Problem, hubs: Sequence[str]) -> None:
        self.problem, self.hubs = problem, hubs
        self._parts = [(part, _around(problem, part)) for part in _parts(problem, hubs)]
        self._known: dict[tuple[object, ...], _Part] = {}

    def cheapest(self, held: Mapping[str, int]) -> float:
        """What the cheapest choice costs with the hubs held."""
        parts, fixed = self._weighed(held)
        return fixed + sum(float(part.costs.min()) for part in parts)

    def bound(self, held: Mapping[str, int], price: float) -> float:
        """What no choice with the hubs held keeps more than: the Lagrangian relaxation of the budget, at any price >= 0."""
        parts, fixed = self._weighed(held)
        kept = sum(self.problem.curves[h][w] for h, w in held.items())
        return kept + price * (self.problem.budget - fixed) + sum(part.net(price)[0] for part in parts)

    def price(self, held: Mapping[str, int]) -> float:
        """Importance paid for a unit of cost at which that bound is least: there the choices it takes use the budget up."""
        parts, fixed = self._weighed(held)
        left = self.problem.budget - fixed
        low, high = 0.0, 1.0
        while sum(part.net(high)[1] for part in parts) > left and high < MOST_PRICE:
            high *= 2
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(part.net(middle)[1] for part in parts) > left else (low, middle)
        return high

    def best(self, held: Mapping[str, int]) -> tuple[_Chosen | None, float]:
        """The best choice with the hubs held, and what the cheapest costs."""
        problem = self.problem
        parts, fixed = self._weighed(held)
        least = fixed + sum(float(part.costs.min()) for part in parts)
        kept = sum(problem.curves[h][w] for h, w in held.items())
        chosen = _knapsack(parts, problem.budget - fixed) if least <= problem.budget else None
        if chosen is None:
            return None, least
        widths = {**held, **{g: w for choice in chosen for g, w in choice.widths.items()}}
        removed = tuple(sorted(block for choice in chosen for block in choice.removed))
        return _Chosen(widths=widths, removed=removed, importance=kept + sum(c.value for c in chosen)), least

    def _weighed(self, held: Mapping[str, int]) -> tuple[list[_Part], float]:
        """The parts with their choices, lone blocks among them, and what the rest costs."""
        problem = self.problem
        parts = [self._options(part, {hub: held[hub] for hub in around}) for part, around in self._parts]
        parts += [_lone(problem, block, held) for block in problem.blocks if _is_lone(problem, block, held)]
        fixed = sum(
            t.cost([held[g] for g in t.groups])
            for t in problem.terms
            if all(g in held for g in t.groups) and t.block not in problem.blocks
        )
        return parts, fixed

    def _options(self, part: tuple[str, ...], held: Mapping[str, int]) -> _Part:
        key = (part, *held.items())
        if key not in self._known:
            self._known[key] = _Part(_options(self.problem, part, held))
        return self._known[key]


def _is_lone(problem: Problem, block: str, held: Mapping[str, int]) -> bool:
    """Whether a block has no group of its own that is free: it is an item by itself."""
    return all(g in held or g not in problem.curves for g in problem.blocks[block])


def _lone(problem: Problem, block: str, held: Mapping[str, int]) -> _Part:
    spent = sum(
        t.cost([held[g] for g in t.groups]) for t in problem.terms if t.block == block and set(t.groups) <= set(held)
    )
    whole = _Choice(widths={}, removed=(), value=problem.block_importance.get(block, 0.0), cost=spent)
    own = sum(problem.curves[g][held[g]] for g in problem.blocks[block] if g in held)
    return _Part([whole, _Choice(widths={}, removed=(block,), value=-own, cost=0.0)])


def _inside(problem: Problem, part: tuple[str, ...]) -> tuple[list[str], list[Term]]:
    """A part's blocks, and the terms that its choices change: a block's come and go with it, whatever they depend on."""
    inside = set(part)
    blocks = [b for b, groups in problem.blocks.items() if inside & set(groups)]
    return blocks, [t for t in problem.terms if inside & set(t.groups) or t.block in blocks]


def _around(problem: Problem, part: tuple[str, ...]) -> tuple[str, ...]:
    """The groups outside of a part that its cost depends on."""
    return tuple(dict.fromkeys(g for t in _inside(problem, part)[1] for g in t.groups if g not in part))


def _options(problem: Problem, part: tuple[str, ...], held: Mapping[str, int]) -> list[_Choice]:
    """All choices of a part that no other beats in both value and cost, cheapest first."""
    inside, (blocks, terms) = set(part), _inside(problem, part)
    options: list[_Choice] = []
    for removed in itertools.chain.from_iterable(itertools.combinations(blocks, n) for n in range(len(blocks) + 1)):
        gone = {g for b in removed for g in problem.blocks[b]} & inside
        stay = [g for g in part if g not in gone]
        present = [t for t in terms if t.block not in removed]
        for widths in itertools.product(*(problem.curves[g] for g in stay)):
            chosen = {**dict(zip(stay, widths, strict=True)), **{g: min(problem.curves[g]) for g in gone}}
            at = {**held, **chosen}
            value = sum(problem.curves[g][at[g]] for g in stay)
            value += sum(problem.block_importance.get(b, 0.0) for b in blocks if b not in removed)
            spent = sum(t.cost([at[g] for g in t.groups]) for t in present)
            options.append(_Choice(widths=chosen, removed=removed, value=value, cost=spent))
    return _undominated(options)


def _undominated(choices: list[_Choice]) -> list[_Choice]:
    kept: list[_Choice] = []
    for choice in sorted(choices, key=lambda c: (c.cost, -c.value)):
        if not kept or choice.value > kept[-1].value:
            kept.append(choice)
    return kept


def _knapsack(parts: Sequence[_Part], budget: float) -> list[_Choice] | None:
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


def _bins(part: _Part, size: float) -> list[int]:
    """How many bins each choice takes more than the cheapest, rounded up; of no size, those that cost more take too many."""
    extra = part.costs - part.costs.min()
    return [0 if more <= 0 else (math.ceil(more / size - 1e-9) if size > 0 else BINS + 1) for more in extra.tolist()]


def _as_allocation(problem: Problem, best: _Chosen) -> Allocation:
    gone = {g for block in best.removed for g in problem.blocks[block]}
    widths = {g: best.widths[g] for g in problem.curves}
    return Allocation(
        widths={g: w for g, w in widths.items() if g not in gone},
        removed=best.removed,
        importance=best.importance,
        cost=cost(problem, widths, best.removed),
    )
