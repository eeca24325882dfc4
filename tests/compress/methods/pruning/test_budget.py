"""A budget is kept as it is measured, not as the pieces add up."""

from dataclasses import replace

import numpy as np
import pytest

from compress.methods.allocation.problem import Allocation, Term
from compress.methods.cost_model import Costs, Coupling
from compress.methods.pruning.budget import TRIES, SearchSpace, best_within, measure_allocations, target_cost
from compress.methods.pruning.channels import Group
from profiles.errors import OutOfReachError


def costs(off):
    """Of a model of 100 channels at 1 ms each, whole models taking ``off(ms)`` of what the sum says."""
    return Costs(
        unit="ms",
        terms=(),
        fixed=0.0,
        now=100.0,
        least=8.0,
        about="by hand",
        measured=None if off is None else lambda widths, removed: off(widths["a"]) / 100,
    )


def found(asked):
    """The widest of multiples of 1 whose sum is within what is asked."""
    if asked < 8:
        raise OutOfReachError("not so fast")
    return Allocation(widths={"a": int(asked)}, removed=(), importance=0.0, cost=float(int(asked)))


def kept(find, costs, removed, budget):
    return best_within(measure_allocations(find, costs, removed, budget), budget)


def test_a_sum_that_is_exact_is_taken_as_it_is():
    assert kept(found, costs(None), (), 50.0) == (found(50.0), 50.0)


def test_pieces_that_tell_too_little_are_asked_for_less():
    """50 by the sum takes 60: asked for 50 x 0.99 x 50 / 60 = 41.25, which takes 41 x 1.2 = 49.2."""
    chosen, taken = kept(found, costs(lambda ms: 1.2 * ms), (), 50.0)
    assert chosen.widths == {"a": 41} and taken == pytest.approx(49.2)


def test_pieces_that_tell_too_much_leave_more_standing():
    """50 by the sum takes 40: asked for 61.875, which takes 61 x 0.8 = 48.8, less than 49: asked again."""
    chosen, taken = kept(found, costs(lambda ms: 0.8 * ms), (), 50.0)
    assert 49 <= taken <= 50 and chosen.widths["a"] > 60


def test_where_nothing_tried_is_within_the_cheapest_is_taken():
    asked = []

    def counting(ms):
        asked.append(ms)
        return 55 + ms / 10

    chosen, taken = kept(found, costs(counting), (), 50.0)
    assert taken == min(55 + ms / 10 for ms in asked) > 50 and 1 < len(asked) <= TRIES
    assert chosen.widths["a"] == min(asked)


def test_what_is_out_of_reach_by_the_sum_is_said():
    with pytest.raises(OutOfReachError):
        kept(found, costs(lambda ms: ms), (), 5.0)


def test_tightening_beyond_reach_goes_as_near_as_there_is():
    """10 takes 20: 10 x 0.99 x 10 / 20 = 4.95 is out of reach, half of the way back 7.475 is too; then 8.7 takes 16."""
    chosen, taken = kept(found, costs(lambda ms: 2 * ms), (), 10.0)
    assert chosen.widths == {"a": 8} and taken == 16


def test_blocks_that_are_gone_are_measured_as_gone():
    seen = []

    def measured(widths, removed):
        seen.append(removed)
        return 0.5

    def without(asked):
        return Allocation(widths={}, removed=("late",), importance=0.0, cost=asked)

    kept(without, Costs(unit="ms", terms=(), fixed=0.0, now=100.0, least=1.0, about="", measured=measured), ("early",), 50.0)
    assert seen == [("early", "late")]


def test_a_little_of_a_measured_budget_is_kept_back_where_there_is_that():
    """100 channels at 1 ms each, 10 of them at least: 3 % of what is measured is spare, nothing of what is counted."""
    group = Group(root="a", importance=np.ones(100))

    def aimed(off, goal):
        terms = [Term(groups=("a",), cost=lambda widths: float(widths[0]))]
        space = SearchSpace(
            costs=replace(costs(off), terms=terms),
            couplings={"a": Coupling(width=100, sizes={})},
            floors={"a": 10},
            blocks={},
            multiple=1,
        )
        return target_cost(space, [group], goal, evenly=False)

    assert aimed(lambda ms: ms, 50.0) == pytest.approx(48.5)
    assert aimed(None, 50.0) == 50.0
    assert aimed(lambda ms: ms, 10.1) == 10.1
    with pytest.raises(OutOfReachError):
        aimed(lambda ms: ms, 9.0)
