"""The search: whole grids, known optima, the budget, and the same path for the same seed."""

import math

import pytest

from compress.methods.evolution import Candidate, evolve, pareto_front

CHOICES = {"depth": [1, 2, 3, 4, 5, 6, 7, 8], "width": [8, 16, 24, 32, 40, 48, 56, 64], "kernel": [1, 3, 5, 7]}


def paraboloid(tried):
    """Best at depth 5, width 40, kernel 3; time is depth times width."""

    def evaluate(arguments):
        tried.append(arguments)
        apart = (arguments["depth"] - 5) ** 2 + ((arguments["width"] - 40) / 8) ** 2 + (arguments["kernel"] - 3) ** 2
        return Candidate(arguments=arguments, score=-apart, latency_ms=arguments["depth"] * arguments["width"])

    return evaluate


def run(most_ms=math.inf, population=12, generations=8, seed=0, choices=CHOICES):
    tried = []
    found = evolve(choices, paraboloid(tried), most_ms=most_ms, population=population, generations=generations, seed=seed)
    return found, tried


@pytest.mark.parametrize("seed", range(5))
def test_a_smooth_optimum_is_found_in_less_than_half_of_the_grid(seed):
    found, tried = run(seed=seed)
    assert found[0].arguments == {"depth": 5, "width": 40, "kernel": 3}
    assert len(tried) == 12 * 8 < math.prod(len(v) for v in CHOICES.values()) / 2, "nothing twice, and never the grid"
    assert len({tuple(a.items()) for a in tried}) == len(tried)


def test_a_small_grid_is_tried_whole_and_its_order_is_that_of_the_scores():
    found, tried = run(choices={"depth": [1, 5], "width": [40], "kernel": [3, 7]})
    assert len(tried) == 4
    assert [c.score for c in found] == [0, -16, -16, -32]


def test_the_budget_comes_before_the_score():
    found, _ = run(most_ms=100)
    within = [c for c in found if c.latency_ms <= 100]
    assert found[: len(within)] == within
    assert within[0].score == max(c.score for c in within)
    rest = found[len(within) :]
    assert [c.latency_ms for c in rest] == sorted(c.latency_ms for c in rest), "the nearest to the budget first"


def test_the_same_seed_takes_the_same_path():
    assert run(seed=3)[1] == run(seed=3)[1] != run(seed=4)[1]


def test_what_cannot_be_built_is_last_and_has_no_children():
    def evaluate(arguments):
        if arguments["a"] > 1:
            return Candidate(arguments=arguments, score=None, fault="no such model")
        return Candidate(arguments=arguments, score=float(arguments["a"]), latency_ms=1.0)

    found = evolve({"a": [0, 1, 2]}, evaluate, most_ms=math.inf, population=2, generations=2, seed=0)
    assert [c.score for c in found] == [1.0, 0.0, None]


def test_the_front_by_hand():
    made = [Candidate(arguments={"n": n}, score=s, latency_ms=t) for n, s, t in [(0, 1, 1), (1, 3, 2), (2, 2, 3), (3, 4, 9)]]
    broken = Candidate(arguments={"n": 4}, score=None, fault="x")
    assert [c.arguments["n"] for c in pareto_front([*made, broken])] == [0, 1, 3]
