"""Channel allocation under a budget: from groups and their costs to widths, and what each width saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from compress.methods.allocation import problem as problems
from compress.methods.allocation import search
from compress.methods.allocation.problem import Allocation, Problem
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
class SearchSpace:
    """Search space of an allocation: the groups and blocks that may be cut, with their costs.

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


def groups_inside(blocks: Sequence[str], couplings: Mapping[str, Coupling]) -> dict[str, tuple[str, ...]]:
    """List for each block the groups all of whose tensors lie within it."""
    return {
        block: tuple(r for r, c in couplings.items() if all(t.startswith(f"{block}.") for t in c.sizes)) for block in blocks
    }


def allocate_widths(
    space: SearchSpace,
    groups: Sequence[Group],
    removed: Sequence[str],
    budget: float,
    damages: Damages | None = None,
    *,
    evenly: bool,
) -> Allocation:
    """Allocate the widths of ``groups``, which may have been cut before, and the blocks that go besides ``removed``.

    Args:
        damages: what is to be least; without, the importance of the channels that stay is to be greatest.

    Raises:
        OutOfReachError: the cheapest choice is over the budget; says what can be had.
    """
    problem = _problem(space, groups, removed, budget)
    problem = problem if damages is None else _with_damages(problem, damages)
    with _told(space.costs, budget):
        return search.uniform(problem) if evenly else search.allocate(problem)


def target_cost(space: SearchSpace, groups: Sequence[Group], goal: float, *, evenly: bool) -> float:
    """Compute the cost to allocate for, so that ``goal`` holds when it is measured again: a little below it where possible.

    Raises:
        OutOfReachError: the cheapest choice is over the goal.
    """
    if space.costs.measured is not None:
        with suppress(OutOfReachError):
            _check_reach(space, groups, (1 - SPARE) * goal, evenly=evenly)
            return (1 - SPARE) * goal
    _check_reach(space, groups, goal, evenly=evenly)
    return goal


def _check_reach(space: SearchSpace, groups: Sequence[Group], budget: float, *, evenly: bool) -> None:
    problem = _problem(space, groups, (), budget)
    with _told(space.costs, budget):
        search.uniform(problem) if evenly else search.check_reach(problem)


@contextmanager
def _told(costs: Costs, budget: float) -> Iterator[None]:
    """Say in the user's terms what can be had, where a budget is out of reach."""
    try:
        yield
    except problems.OutOfReachError as error:
        raise OutOfReachError(_out_of_reach(costs, budget, error.least + costs.fixed)) from None


def measure_allocations(
    find: Callable[[float], Allocation], costs: Costs, removed: Sequence[str], budget: float
) -> list[tuple[Allocation, float]]:
    """Measure whole models under several allocations for a budget: the sum of measured layers is off by percents.

    ``find`` gives an allocation by that sum. It is called again, for as much less or more as the last one was off, or as
    near to that as possible, until one is within the budget and uses it.

    Args:
        removed: blocks that are gone already.

    Raises:
        OutOfReachError: none is within the budget by the sum.
    """
    allocation = find(budget)
    if costs.measured is None:
        return [(allocation, costs.fixed + allocation.cost)]
    seen: list[tuple[Allocation, float]] = []
    wanted = budget
    while True:
        taken = costs.now * costs.measured(allocation.widths, (*removed, *allocation.removed))
        seen.append((allocation, taken))
        if (1 - UNUSED) * budget <= taken <= budget or len(seen) == TRIES:
            return seen
        nearest = _nearest(find, wanted * (1 - UNUSED / 2) * budget / taken, wanted)
        if nearest is None:
            return seen
        wanted, allocation = nearest


def best_within(seen: Sequence[tuple[Allocation, float]], budget: float) -> tuple[Allocation, float]:
    """Select the allocation that uses the budget best; where none is within, the cheapest."""
    within = [each for each in seen if each[1] <= budget]
    return max(within, key=lambda each: each[1]) if within else min(seen, key=lambda each: each[1])


def _nearest(find: Callable[[float], Allocation], wanted: float, had: float) -> tuple[float, Allocation] | None:
    """Return the allocation for a cost, or for one nearer to the cost that was possible (``had``); and its cost."""
    for _ in range(HALVINGS):
        try:
            return wanted, find(wanted)
        except OutOfReachError:
            wanted = (wanted + had) / 2
    return None


def list_choices(
    space: SearchSpace, start: Sequence[Group], end: Mapping[str, int], kept: Mapping[str, float]
) -> tuple[Choice, ...]:
    """List the choice for each group and block, with its saving given all others.

    Args:
        end: widths of the groups that are left. kept: importance kept of each, as a fraction.
    """
    removed = [b for b, groups in space.blocks.items() if b in kept and kept[b] == 0]
    full = {root: coupling.width for root, coupling in space.couplings.items()}
    terms = [t for t in space.costs.terms if t.block is None or t.block not in removed]
    at = {**full, **end}
    listed = []
    gone = {g for block in removed for g in space.blocks[block]}
    for group in start:
        root = group.root
        if root in gone:
            continue
        touching = [t for t in terms if root in t.groups]
        saved = sum(
            t.cost([{**at, root: full[root]}[g] for g in t.groups]) - t.cost([at[g] for g in t.groups]) for t in touching
        )
        listed.append(
            Choice(
                name=root,
                kind="group",
                family=group.family,
                before=full[root],
                after=at[root],
                kept=kept.get(root, 1.0),
                bought=float(saved),
                unit=space.costs.unit,
            )
        )
    for block in removed:
        own = [t for t in space.costs.terms if t.block == block]
        saved = sum(t.cost([at[g] for g in t.groups]) for t in own)
        width = max((full[g] for g in space.blocks[block]), default=1)
        listed.append(
            Choice(
                name=block,
                kind="block",
                family="",
                before=width,
                after=0,
                kept=0.0,
                bought=float(saved),
                unit=space.costs.unit,
            )
        )
    return tuple(listed)


def _problem(space: SearchSpace, groups: Sequence[Group], removed: Sequence[str], budget: float) -> Problem:
    gone = {g for block in removed for g in space.blocks[block]}
    curves: dict[str, dict[int, float]] = {}
    for group in groups:
        if group.root in space.couplings and group.root not in gone:
            curves[group.root] = _curve(group, space.floors[group.root], space.multiple)
    for root, coupling in space.couplings.items():
        if root not in curves and root not in gone:
            curves[root] = {coupling.width: 0.0}
    blocks = {b: tuple(g for g in inner if g in curves) for b, inner in space.blocks.items() if b not in removed}
    bare = {block: _block_importance(block, groups) for block, inner in blocks.items() if not inner}
    terms = [t for t in space.costs.terms if t.block is None or t.block not in removed]
    return Problem(curves=curves, terms=terms, budget=budget - space.costs.fixed, blocks=blocks, block_importance=bare)


def allowed_widths(space: SearchSpace, groups: Sequence[Group]) -> dict[str, tuple[int, ...]]:
    """List the widths that each group may have, ascending, its own with them."""
    return {group.root: tuple(_curve(group, space.floors[group.root], space.multiple)) for group in groups}


def _with_damages(problem: Problem, damages: Damages) -> Problem:
    """Replace importance kept by negative damage in a problem."""
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


def _block_importance(block: str, groups: Sequence[Group]) -> float:
    """Return the importance of a block none of whose channels can be cut: the mean over the groups."""
    return float(np.mean([group.importance.sum() for group in groups])) if groups else 1.0


def _out_of_reach(costs: Costs, budget: float, least: float) -> str:
    if costs.unit == "ms":
        return (
            f"the fastest allocation measured is {costs.now / least:.1f}x ({least:.3f} ms of {costs.now:.3f}); "
            f"asked {costs.now / budget:.3g}x ({budget:.3f} ms); ask for less, or allow more to be cut"
        )
    return f"the least {costs.unit} are {costs.now / least:.1f}x fewer; asked {costs.now / budget:.3g}x"
