"""A problem once its hubs are held: parts that share no cost term, their choices, the best of them and its bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from compress.methods.allocation.knapsack import Choice, Part, knapsack
from compress.methods.allocation.problem import Problem, Term

MOST_CHOICES = 600
"""Of one part: as many as its groups' widths have combinations."""
HALVINGS, MOST_PRICE = 24, 2.0**60
"""With which a price is found; any price gives a bound, a near one a tight one."""


@final
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best choice for some widths of the hubs."""

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    importance: float


@final
class Decomposition:
    """The best choice for any widths of the hubs; a part is worked out once for those that its cost depends on."""

    def __init__(self, problem: Problem, hubs: Sequence[str]) -> None:
        self.problem, self.hubs = problem, hubs
        self._parts = [(part, _around(problem, part)) for part in _parts(problem, hubs)]
        self._known: dict[tuple[object, ...], Part] = {}

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

    def best(self, held: Mapping[str, int]) -> tuple[Chosen | None, float]:
        """The best choice with the hubs held, and what the cheapest costs."""
        problem = self.problem
        parts, fixed = self._weighed(held)
        least = fixed + sum(float(part.costs.min()) for part in parts)
        kept = sum(problem.curves[h][w] for h, w in held.items())
        chosen = knapsack(parts, problem.budget - fixed) if least <= problem.budget else None
        if chosen is None:
            return None, least
        widths = {**held, **{g: w for choice in chosen for g, w in choice.widths.items()}}
        removed = tuple(sorted(block for choice in chosen for block in choice.removed))
        return Chosen(widths=widths, removed=removed, importance=kept + sum(c.value for c in chosen)), least

    def _weighed(self, held: Mapping[str, int]) -> tuple[list[Part], float]:
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

    def _options(self, part: tuple[str, ...], held: Mapping[str, int]) -> Part:
        key = (part, *held.items())
        if key not in self._known:
            self._known[key] = Part(_options(self.problem, part, held))
        return self._known[key]


def find_hubs(problem: Problem) -> tuple[str, ...]:
    """Groups to hold, so that the others fall into parts of few choices: those that touch most others first.

    Those that a block without groups of its own reads are held from the start: the block is then an item by itself.
    """
    bare = {block for block, groups in problem.blocks.items() if not any(g in problem.curves for g in groups)}
    hubs = list(dict.fromkeys(g for t in problem.terms if t.block in bare for g in t.groups))
    while True:
        parts = _parts(problem, hubs)
        large = [part for part in parts if count_choices(problem, part) > MOST_CHOICES]
        if not large:
            return tuple(hubs)
        touching = {g: len({o for t in problem.terms if g in t.groups for o in t.groups}) for part in large for g in part}
        hubs.append(max(touching, key=lambda g: (touching[g], -len(hubs))))


def count_choices(problem: Problem, part: Sequence[str]) -> int:
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


def _is_lone(problem: Problem, block: str, held: Mapping[str, int]) -> bool:
    """Whether a block has no group of its own that is free: it is an item by itself."""
    return all(g in held or g not in problem.curves for g in problem.blocks[block])


def _lone(problem: Problem, block: str, held: Mapping[str, int]) -> Part:
    spent = sum(
        t.cost([held[g] for g in t.groups]) for t in problem.terms if t.block == block and set(t.groups) <= set(held)
    )
    whole = Choice(widths={}, removed=(), value=problem.block_importance.get(block, 0.0), cost=spent)
    own = sum(problem.curves[g][held[g]] for g in problem.blocks[block] if g in held)
    return Part([whole, Choice(widths={}, removed=(block,), value=-own, cost=0.0)])


def _inside(problem: Problem, part: tuple[str, ...]) -> tuple[list[str], list[Term]]:
    """A part's blocks, and the terms that its choices change: a block's come and go with it, whatever they depend on."""
    inside = set(part)
    blocks = [b for b, groups in problem.blocks.items() if inside & set(groups)]
    return blocks, [t for t in problem.terms if inside & set(t.groups) or t.block in blocks]


def _around(problem: Problem, part: tuple[str, ...]) -> tuple[str, ...]:
    """The groups outside of a part that its cost depends on."""
    return tuple(dict.fromkeys(g for t in _inside(problem, part)[1] for g in t.groups if g not in part))


def _options(problem: Problem, part: tuple[str, ...], held: Mapping[str, int]) -> list[Choice]:
    """All choices of a part that no other beats in both value and cost, cheapest first."""
    inside, (blocks, terms) = set(part), _inside(problem, part)
    options: list[Choice] = []
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
            options.append(Choice(widths=chosen, removed=removed, value=value, cost=spent))
    return _undominated(options)


def _undominated(choices: list[Choice]) -> list[Choice]:
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.cost, -c.value)):
        if not kept or choice.value > kept[-1].value:
            kept.append(choice)
    return kept
