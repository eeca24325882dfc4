"""From groups of channels and their costs to the widths that a budget allows, and what each of them bought."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from compress.methods import allocation
from compress.methods.allocation import Allocation, Problem
from compress.methods.choice import Choice
from compress.methods.cost_model import Costs, Coupling
from compress.methods.pruning.channels import Group
from compress.methods.pruning.damage import Damages
from profiles.errors import OutOfReachError

TRIES, UNUSED, HALVINGS = 4, 0.02, 3
"""Choices that are measured whole, the share of a budget that may be left over, and how often what is out of reach is
approached by half of the way."""
SPARE = 0.03
"""The share of a measured budget that is kept back: of many choices that were timed one is taken that came out within it, in
part by chance, and timed again it takes 1 to 4 % more (ResNet-56 at 2x and 4x)."""


@final
@dataclass(frozen=True, kw_only=True)
class Room:
    """What may be chosen from.

    Attributes:
        couplings: of each group that can be cut, as the model was before the first round.
        floors: the least width of each group that may be left.
        blocks: of each block that may go, the groups that lie within it.
    """

    costs: Costs
    couplings: Mapping[str, Coupling]
    floors: Mapping[str, int]
    blocks: Mapping[str, tuple[str, ...]]
    multiple: int


def inside(blocks: Sequence[str], couplings: Mapping[str, Coupling]) -> dict[str, tuple[str, ...]]:
    """Of each block the groups all of whose tensors are its own."""
    return {
        block: tuple(r for r, c in couplings.items() if all(t.startswith(f"{block}.") for t in c.sizes)) for block in blocks
    }


def choose(
    room: Room,
    groups: Sequence[Group],
    removed: Sequence[str],
    budget: float,
    damages: Damages | None = None,
    *,
    evenly: bool,
) -> Allocation:
    """The widths of ``groups``, which may have been cut before, and the blocks that go besides those ``removed``.

    Args:
        damages: what is to be least; without, the importance of the channels that stay is to be greatest.

    Raises:
        OutOfReachError: the cheapest choice is over the budget; says what can be had.
    """
    problem = _problem(room, groups, removed, budget)
    problem = problem if damages is None else _sparing(problem, damages)
    try:
        return allocation.uniform(problem) if evenly else allocation.allocate(problem)
    except allocation.OutOfReachError as error:
        raise OutOfReachError(_told(room.costs, budget, error.least + room.costs.fixed)) from None


def aim(room: Room, groups: Sequence[Group], goal: float, *, evenly: bool) -> float:
    """What to choose for, so that ``goal`` is kept when it is measured again: a little less where there is that.

    Raises:
        OutOfReachError: the cheapest choice is over the goal.
    """
    if room.costs.measured is not None:
        with suppress(OutOfReachError):
            choose(room, groups, (), (1 - SPARE) * goal, evenly=evenly)
            return (1 - SPARE) * goal
    choose(room, groups, (), goal, evenly=evenly)
    return goal


def tried(
    find: Callable[[float], Allocation], costs: Costs, removed: Sequence[str], budget: float
) -> list[tuple[Allocation, float]]:
    """Allocations for a budget, and their costs as they are measured whole: the sum of the pieces is off by percents.

    ``find`` gives one by that sum. It is asked again, for as much less or more as the last one was off, or as near to that
    as there is any, until one is within the budget and uses it.

    Args:
        removed: blocks that are gone already.

    Raises:
        OutOfReachError: none is within the budget by the sum.
    """
    found = find(budget)
    if costs.measured is None:
        return [(found, costs.fixed + found.cost)]
    seen: list[tuple[Allocation, float]] = []
    asked = budget
    while True:
        taken = costs.now * costs.measured(found.widths, (*removed, *found.removed))
        seen.append((found, taken))
        if (1 - UNUSED) * budget <= taken <= budget or len(seen) == TRIES:
            return seen
        nearest = _nearest(find, asked * (1 - UNUSED / 2) * budget / taken, asked)
        if nearest is None:
            return seen
        asked, found = nearest


def held(seen: Sequence[tuple[Allocation, float]], budget: float) -> tuple[Allocation, float]:
    """Of allocations and their costs the one that uses the budget best; where none is within, the cheapest."""
    within = [each for each in seen if each[1] <= budget]
    return max(within, key=lambda each: each[1]) if within else min(seen, key=lambda each: each[1])


def _nearest(find: Callable[[float], Allocation], asked: float, had: float) -> tuple[float, Allocation] | None:
    """What ``find`` gives for a cost, or for one nearer to what could be ``had``; and that cost."""
    for _ in range(HALVINGS):
        try:
            return asked, find(asked)
        except OutOfReachError:
            asked = (asked + had) / 2
    return None


def choices(room: Room, start: Sequence[Group], end: Mapping[str, int], kept: Mapping[str, float]) -> tuple[Choice, ...]:
    """What became of each group and block, and what each saves given all others.

    Args:
        end: widths of the groups that are left. kept: importance kept of each, as a fraction.
    """
    removed = [b for b, groups in room.blocks.items() if b in kept and kept[b] == 0]
    full = {root: coupling.width for root, coupling in room.couplings.items()}
    terms = [t for t in room.costs.terms if t.block is None or t.block not in removed]
    at = {**full, **end}
    found = []
    gone = {g for block in removed for g in room.blocks[block]}
    for group in start:
        root = group.root
        if root in gone:
            continue
        touching = [t for t in terms if root in t.groups]
        saved = sum(
            t.cost([{**at, root: full[root]}[g] for g in t.groups]) - t.cost([at[g] for g in t.groups]) for t in touching
        )
        found.append(
            Choice(
                name=root,
                kind="group",
                family=group.family,
                before=full[root],
                after=at[root],
                kept=kept.get(root, 1.0),
                bought=float(saved),
                unit=room.costs.unit,
            )
        )
    for block in removed:
        own = [t for t in room.costs.terms if t.block == block]
        saved = sum(t.cost([at[g] for g in t.groups]) for t in own)
        width = max((full[g] for g in room.blocks[block]), default=1)
        found.append(
            Choice(
                name=block,
                kind="block",
                family="",
                before=width,
                after=0,
                kept=0.0,
                bought=float(saved),
                unit=room.costs.unit,
            )
        )
    return tuple(found)


def _problem(room: Room, groups: Sequence[Group], removed: Sequence[str], budget: float) -> Problem:
    gone = {g for block in removed for g in room.blocks[block]}
    curves: dict[str, dict[int, float]] = {}
    for group in groups:
        if group.root in room.couplings and group.root not in gone:
            curves[group.root] = _curve(group, room.floors[group.root], room.multiple)
    for root, coupling in room.couplings.items():
        if root not in curves and root not in gone:
            curves[root] = {coupling.width: 0.0}
    blocks = {b: tuple(g for g in inner if g in curves) for b, inner in room.blocks.items() if b not in removed}
    bare = {block: _worth(block, groups) for block, inner in blocks.items() if not inner}
    terms = [t for t in room.costs.terms if t.block is None or t.block not in removed]
    return Problem(curves=curves, terms=terms, budget=budget - room.costs.fixed, blocks=blocks, block_importance=bare)


def widths(room: Room, groups: Sequence[Group]) -> dict[str, tuple[int, ...]]:
    """The widths that each group may have, ascending, its own with them."""
    return {group.root: tuple(_curve(group, room.floors[group.root], room.multiple)) for group in groups}


def _sparing(problem: Problem, damages: Damages) -> Problem:
    """The problem with what a choice keeps told as the damage that it does not do."""
    curves = {
        root: {width: -damages.groups[root][width] for width in curve} if root in damages.groups else curve
        for root, curve in problem.curves.items()
    }
    return replace(problem, curves=curves, block_importance={block: damages.blocks[block] for block in problem.blocks})


def _curve(group: Group, floor: int, multiple: int) -> dict[int, float]:
    """Importance kept at each multiple from ``floor`` on, and at the group's own width."""
    strongest = np.concatenate([[0.0], np.cumsum(np.sort(group.importance)[::-1])])
    width, step = len(group.importance), group.step(multiple)
    return {w: float(strongest[w]) for w in (*range(step, width, step), width) if w >= floor}


def _worth(block: str, groups: Sequence[Group]) -> float:
    """A block none of whose channels can be cut is worth what the groups are worth on average."""
    return float(np.mean([group.importance.sum() for group in groups])) if groups else 1.0


def _told(costs: Costs, budget: float, least: float) -> str:
    if costs.unit == "ms":
        return (
            f"the fastest allocation measured is {costs.now / least:.1f}x ({least:.3f} ms of {costs.now:.3f}); "
            f"asked {costs.now / budget:.3g}x ({budget:.3f} ms); ask for less, or allow more to be cut"
        )
    return f"the least {costs.unit} are {costs.now / least:.1f}x fewer; asked {costs.now / budget:.3g}x"
