"""Which of the proposed allocations are timed, by hand."""

from compress.allocation import Allocation
from compress.pruning.proposals import Proposals


def cut_to(width, *removed):
    return Allocation(widths={"a": width}, removed=removed, importance=0.0, cost=0.0)


def test_the_least_harmful_different_proposals_come_first():
    harms = {(8, ()): 0.3, (4, ("b",)): 0.1, (6, ()): 0.2}
    made = [cut_to(8), cut_to(4, "b"), cut_to(8), cut_to(6)]
    asked = []

    def way(index):
        return lambda cost: (asked.append(cost), made[index])[1]

    proposals = Proposals(ways=[way(i) for i in range(4)], harm=lambda a: harms[a.widths["a"], a.removed])
    assert [propose(1.0) for propose in proposals.finalists(1.0, 2)] == [made[1], made[3]]
    assert [propose(1.0) for propose in proposals.finalists(1.0, 9)] == [made[1], made[3], made[0]]
    assert set(asked) == {1.0}
