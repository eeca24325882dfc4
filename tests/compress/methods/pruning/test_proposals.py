"""Which of the proposed allocations are timed, by hand."""

from compress.methods.allocation.problem import Allocation
from compress.methods.cost_model import Costs
from compress.methods.pruning.proposals import least_damaging, shortlist


def cut_to(width, *removed):
    return Allocation(widths={"a": width}, removed=removed, importance=0.0, cost=0.0)


def test_the_least_harmful_different_proposals_come_first():
    harms = {(8, ()): 0.3, (4, ("b",)): 0.1, (6, ()): 0.2}
    made = [cut_to(8), cut_to(4, "b"), cut_to(8), cut_to(6)]
    asked = []

    def way(index):
        return lambda cost: (asked.append(cost), made[index])[1]

    def harm(chosen):
        return harms[chosen.widths["a"], chosen.removed]

    ways = [way(i) for i in range(4)]
    assert [propose(1.0) for propose in shortlist(ways, harm, 1.0, 2)] == [made[1], made[3]]
    assert [propose(1.0) for propose in shortlist(ways, harm, 1.0, 9)] == [made[1], made[3], made[0]]
    assert set(asked) == {1.0}


def test_what_is_least_harmful_by_the_sum_need_not_be_at_the_budget_as_measured():
    """Deep allocations take twice what the sum says: held to 8 ms they are cut to 3, and do more harm than wide ones."""

    def wide(cost):
        return cut_to(int(cost))

    def deep(cost):
        return cut_to(int(cost), "b")

    def measured(widths, removed):
        return widths["a"] / 16 * (2 if removed else 1)

    def harm(chosen):
        return 1 / chosen.widths["a"] - (0.02 if chosen.removed else 0)

    costs = Costs(unit="ms", terms=(), fixed=0.0, now=16.0, least=0.0, about="by hand", measured=measured)
    assert harm(deep(8)) < harm(wide(8))
    chosen, taken = least_damaging([deep, wide], harm, costs, (), 8.0)
    assert not chosen.removed and chosen.widths == {"a": 8} and taken == 8.0


def test_where_the_sum_is_far_off_the_least_harmful_of_all_that_were_timed_is_taken():
    """12 ms by the sum take 15, over the budget; asked for less, 9 take 6 and then 11 take 11, and do more harm than 9."""

    def step(cost):
        return cut_to(12 if cost >= 12 else 9 if cost < 10 else 11)

    def measured(widths, removed):
        return {12: 15, 9: 6, 11: 11}[widths["a"]] / 16

    harms = {12: 0.0, 9: 0.1, 11: 0.4}
    costs = Costs(unit="ms", terms=(), fixed=0.0, now=16.0, least=0.0, about="by hand", measured=measured)
    chosen, taken = least_damaging([step], lambda each: harms[each.widths["a"]], costs, (), 12.0)
    assert chosen.widths == {"a": 9} and taken == 6.0


def test_what_an_earlier_attempt_measured_is_taken_where_it_does_less_harm():
    """Asked for 12 ms now, 11 ms with harm 0.4 are found; the attempt at 10 ms had measured 9 ms with harm 0.1."""
    harms, earlier = {11: 0.4, 9: 0.1, 14: 0.0}, [(cut_to(14), 14.0), (cut_to(9), 9.0)]
    costs = Costs(
        unit="ms", terms=(), fixed=0.0, now=16.0, least=0.0, about="by hand", measured=lambda widths, _: widths["a"] / 16
    )
    chosen, taken = least_damaging([lambda _: cut_to(11)], lambda c: harms[c.widths["a"]], costs, (), 11.2, None, earlier)
    assert (chosen.widths, taken) == ({"a": 9}, 9.0)
    assert {each.widths["a"] for each, _ in earlier} == {14, 9, 11}
