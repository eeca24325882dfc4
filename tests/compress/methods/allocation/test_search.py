import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.methods.allocation import decomposition, knapsack, search
from compress.methods.allocation.decomposition import Decomposition
from compress.methods.allocation.problem import OutOfReachError, Problem, Term, cost
from compress.methods.allocation.search import allocate, check_reach, uniform


def brute(problem):
    """The greatest importance of all choices that keep the budget; None when none does."""
    best = None
    groups = list(problem.curves)
    for count in range(len(problem.blocks) + 1):
        for removed in itertools.combinations(problem.blocks, count):
            gone = {g for b in removed for g in problem.blocks[b]}
            for widths in itertools.product(*(problem.curves[g] for g in groups)):
                at = dict(zip(groups, widths, strict=True))
                if cost(problem, at, removed) > problem.budget:
                    continue
                kept = sum(problem.curves[g][w] for g, w in at.items() if g not in gone)
                kept += sum(v for b, v in problem.block_importance.items() if b not in removed)
                best = kept if best is None else max(best, kept)
    return best


def product(groups, factor, block=None):
    return Term(groups=groups, cost=lambda w: factor * float(np.prod(w)), block=block)


def test_a_layer_is_bought_where_it_is_cheap():
    """Two groups of equal importance, one four times as dear: by hand, all of the cheap one and half of the other."""
    curve = {1: 1.0, 2: 2.0}
    problem = Problem(
        curves={"cheap": curve, "dear": curve}, terms=[product(("cheap",), 1), product(("dear",), 4)], budget=6
    )
    found = allocate(problem)
    assert (found.widths, found.importance, found.cost) == ({"cheap": 2, "dear": 1}, 3.0, 6.0)


def test_both_sides_of_a_layer_count():
    """a x b <= 4 with b worth more: (1, 4) keeps 1 + 8, (2, 2) keeps 2 + 4, (4, 1) keeps 4 + 2."""
    curves = {"a": {1: 1.0, 2: 2.0, 4: 4.0}, "b": {1: 2.0, 2: 4.0, 4: 8.0}}
    assert allocate(Problem(curves=curves, terms=[product(("a", "b"), 1)], budget=4)).widths == {"a": 1, "b": 4}


def test_a_block_goes_where_its_channels_are_worth_less_than_they_cost():
    curves = {"stream": {4: 10.0, 8: 20.0}, "inner": {4: 1.0, 8: 2.0}}
    terms = [product(("stream",), 1), product(("stream", "inner"), 1, "block")]
    found = allocate(Problem(curves=curves, terms=terms, budget=10, blocks={"block": ("inner",)}))
    assert found.removed == ("block",) and found.widths == {"stream": 8} and found.cost == 8


def test_a_block_without_groups_of_its_own_can_go():
    terms = [product(("stream",), 1), product(("stream",), 3, "block")]
    problem = Problem(
        curves={"stream": {1: 1.0, 2: 2.0}}, terms=terms, budget=4, blocks={"block": ()}, block_importance={"block": 0.5}
    )
    found = allocate(problem)
    assert (found.widths, found.removed, found.importance) == ({"stream": 2}, ("block",), 2.0)


def test_a_part_is_worked_out_once_for_what_it_depends_on():
    """Two groups are held at each of 3 x 3 widths; a third depends on one of them: 3 x 2 costs, and one to tell the sum."""
    asked = []

    def counted(widths):
        asked.append(tuple(widths))
        return widths[0] * widths[1]

    three, two = {1: 1.0, 2: 2.0, 3: 3.0}, {1: 1.0, 2: 2.0}
    terms = [product(("a",), 1, "x"), product(("b",), 1, "y"), Term(groups=("a", "p"), cost=counted)]
    problem = Problem(curves={"a": three, "b": three, "p": two}, terms=terms, budget=9, blocks={"x": (), "y": ()})
    allocate(problem)
    assert len(asked) == 3 * 2 + 1 and len(set(asked)) == 3 * 2


def test_what_is_out_of_reach_is_told_with_the_least():
    problem = Problem(curves={"a": {2: 1.0, 4: 2.0}}, terms=[product(("a",), 3)], budget=5)
    with pytest.raises(OutOfReachError) as caught:
        allocate(problem)
    assert caught.value.least == 6
    with pytest.raises(OutOfReachError):
        uniform(problem)


def test_uniform_is_the_largest_common_fraction():
    curves = {"a": {2: 1.0, 4: 2.0}, "b": {4: 1.0, 8: 2.0}}
    problem = Problem(curves=curves, terms=[product(("a",), 1), product(("b",), 1)], budget=11)
    assert uniform(problem).widths == {"a": 2, "b": 4}


@st.composite
def residual(draw):
    """Streams with blocks on them, random costs that are integers so that bins are exact."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = (1, 2, 3)

    def curve():
        return dict(zip(widths, np.cumsum(random.integers(1, 20, 3)).astype(float), strict=True))

    curves = {"s0": curve(), "s1": curve()}
    terms = [product(("s0", "s1"), int(random.integers(1, 4)))]
    blocks = {}
    for number in range(3):
        stream, inner = f"s{number % 2}", f"i{number}"
        curves[inner] = curve()
        terms.append(product((stream, inner), int(random.integers(1, 5)), f"b{number}"))
        blocks[f"b{number}"] = (inner,)
    problem = Problem(
        curves=curves, terms=terms, budget=0, blocks=blocks, block_importance={"b0": float(random.integers(5))}
    )
    most = cost(problem, dict.fromkeys(curves, 3))
    return Problem(**{**vars(problem), "budget": float(random.integers(1, int(most) + 1))})


@given(problem=residual())
@settings(max_examples=40, deadline=None)
def test_it_is_as_good_as_brute_force(problem):
    expected = brute(problem)
    if expected is None:
        for ask in (allocate, check_reach):
            with pytest.raises(OutOfReachError):
                ask(problem)
        return
    check_reach(problem)
    found = allocate(problem)
    assert found.cost <= problem.budget
    assert found.importance == pytest.approx(expected)


@given(problem=residual(), other=st.floats(0, 20))
@settings(max_examples=40, deadline=None)
def test_no_choice_keeps_more_than_the_bound(problem, other):
    """At any price; at the one that is found the bound is as good as the least of all prices, but for halvings."""
    hubs = ("s0", "s1")
    found = Decomposition(problem, hubs)
    for held in (dict(zip(hubs, widths, strict=True)) for widths in itertools.product((1, 2, 3), repeat=2)):
        chosen, least = found.best(held)
        if chosen is None:
            assert least > problem.budget
            continue
        price = found.price(held)
        bound = found.bound(held, price)
        assert chosen.importance <= bound + 1e-9 and chosen.importance <= found.bound(held, other) + 1e-9
        assert bound <= found.bound(held, other) + 1e-3


def test_the_bound_by_hand():
    """Costs 1, 2, 4 for 3, 5, 6, a budget of 3: at a price of 1/2 both 2 and 4 net 4; at 2 both 1 and 2 net 1."""
    curve = {1: 3.0, 2: 5.0, 4: 6.0}
    found = Decomposition(Problem(curves={"a": curve}, terms=[product(("a",), 1)], budget=3), ())
    assert found.price({}) == pytest.approx(0.5)
    assert found.bound({}, 0.5) == 0.5 * 3 + 4.0 and found.bound({}, 0.0) == 6.0 and found.bound({}, 2.0) == 6.0 + 1.0
    chosen, _ = found.best({})
    assert chosen is not None and chosen.importance == 5.0


def test_searching_keeps_the_budget_and_comes_close(monkeypatch):
    """A chain of layers, each between two groups; with few combinations allowed the hubs are searched, not enumerated."""
    random = np.random.default_rng(3)
    curves = {f"g{i}": dict(zip((1, 2, 4), np.cumsum(random.random(3)), strict=True)) for i in range(7)}
    terms = [product((f"g{i}", f"g{i + 1}"), float(random.integers(1, 5))) for i in range(6)]
    problem = Problem(curves=curves, terms=terms, budget=60.0)
    expected = brute(problem)
    monkeypatch.setattr(search, "MOST_COMBINATIONS", 2)
    monkeypatch.setattr(decomposition, "MOST_CHOICES", 9)
    found = allocate(problem)
    assert found.cost <= problem.budget
    assert found.importance >= 0.95 * expected


def test_costs_are_rounded_up_so_that_a_budget_is_kept(monkeypatch):
    """Ten bins of 1: two choices of 5.5 are 6 bins each, so one of them is taken; of 5 both are, to the last bin."""
    monkeypatch.setattr(knapsack, "BINS", 10)
    for dear, wide in ((5.5, 1), (5.0, 2)):
        table = {1: 1.0, 2: 1.0 + dear}
        terms = [Term(groups=(g,), cost=lambda w, table=table: table[w[0]]) for g in ("a", "b")]
        found = allocate(Problem(curves={g: {1: 1.0, 2: 3.0} for g in "ab"}, terms=terms, budget=12.0))
        assert sorted(found.widths.values()) == [wide, 2] and found.cost <= 12


@given(costs=st.lists(st.floats(0.1, 5), min_size=2, max_size=5), share=st.floats(0.1, 1))
@settings(max_examples=40, deadline=None)
def test_real_costs_keep_the_budget_and_lose_at_most_a_bin_a_part(costs, share):
    """Any choice that fits in the budget less a bin a part is among those that are weighed."""
    curve, count = {1: 1.0, 2: 2.0, 3: 4.0}, len(costs)
    terms = [product((f"g{i}",), c) for i, c in enumerate(costs)]
    problem = Problem(curves={f"g{i}": curve for i in range(count)}, terms=terms, budget=sum(costs) * (1 + 2 * share))
    found = allocate(problem)
    assert found.cost <= problem.budget * (1 + 1e-9)
    tight = problem.budget - count * (problem.budget - sum(costs)) / knapsack.BINS
    assert found.importance >= brute(Problem(**{**vars(problem), "budget": tight}))


def test_the_least_is_that_of_the_cheapest_fraction():
    """Not of the last one tried, nor of the widest: widths that cost less when wider."""
    costs = {2: 9.0, 4: 7.0, 8: 12.0}
    problem = Problem(
        curves={"a": dict.fromkeys(costs, 1.0)}, terms=[Term(groups=("a",), cost=lambda w: costs[w[0]])], budget=5
    )
    with pytest.raises(OutOfReachError) as caught:
        uniform(problem)
    assert caught.value.least == 7
    with pytest.raises(OutOfReachError) as caught:
        allocate(problem)
    assert caught.value.least == 7


def test_a_lone_block_costs_nothing_once_it_is_gone():
    terms = [product(("stream",), 1), product(("stream",), 3, "block")]
    problem = Problem(
        curves={"stream": {2: 1.0}}, terms=terms, budget=2, blocks={"block": ()}, block_importance={"block": 9.0}
    )
    found = allocate(problem)
    assert (found.removed, found.cost, found.importance) == (("block",), 2.0, 1.0)


def test_two_hubs_move_against_each_other_where_neither_moves_alone():
    """From (2, 2): wider costs too much, narrower keeps less; one wider and the other narrower is what is left."""
    curves = {"a": {1: 1.0, 2: 2.0, 3: 9.0}, "b": {1: 1.0, 2: 2.0, 3: 2.5}}
    moves = search._moves(Problem(curves=curves, terms=[], budget=4), ("a", "b"))
    moved = [move({"a": 2, "b": 2}) for move in moves]
    assert moved[6:] == [{"a": 3, "b": 1}, {"a": 1, "b": 3}]
    assert moved[:6] == [*({"a": w, "b": 2} for w in (1, 2, 3)), *({"a": 2, "b": w} for w in (1, 2, 3))]
    assert moves[6]({"a": 3, "b": 2}) == {"a": 3, "b": 2}, "no step wider than the widest"
