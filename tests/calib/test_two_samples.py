"""The permutation test: by hand, exact where it claims to be, and right as often as it says under the null."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.two_samples import compare, holm, pairwise_distances, unlikeness


def test_by_hand():
    """Of 0, 1 against 3, 5: between 3.5 on average, within 0.5 and 1 (pairs with themselves count), so 7 - 1.5."""
    a, b = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    found = compare(a, b)
    assert found.distance == pytest.approx(7 - 0.5 - 1.0)
    assert found.share == pytest.approx(5.5 / 7)
    assert found.exact and found.relabellings == 6 and found.least_p == pytest.approx(1 / 6)
    assert found.p == pytest.approx(2 / 6), "itself, and the same with both sides exchanged"


def test_the_exact_p_value_is_that_of_every_relabelling():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(1.0, size=(5, 3))
    pooled = np.concatenate([a, b])

    def energy(chosen):
        one, two = pooled[list(chosen)], np.delete(pooled, list(chosen), axis=0)
        mean = lambda x, y: np.mean([[math.dist(p, q) for q in y] for p in x])  # noqa: E731
        return 2 * mean(one, two) - mean(one, one) - mean(two, two)

    ways = [energy(chosen) for chosen in itertools.combinations(range(9), 4)]
    found = compare(a, b)
    assert found.exact and found.relabellings == math.comb(9, 4)
    assert found.p == pytest.approx(np.mean([way >= energy(range(4)) - 1e-9 for way in ways]))


def test_drawn_relabellings_never_give_a_p_value_of_0():
    a, b = np.zeros((40, 1)), np.ones((40, 1))
    found = compare(a, b, draws=99)
    assert not found.exact and found.p == 1 / 100 == found.least_p


def test_as_many_false_alarms_as_the_level_says():
    rng = np.random.default_rng(1)
    p = [compare(rng.normal(size=(12, 2)), rng.normal(size=(12, 2)), draws=99, seed=n).p for n in range(200)]
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)
    assert np.mean(np.array(p) <= 0.1) >= 0.1 - 3 * math.sqrt(0.1 * 0.9 / 200)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
def test_the_order_and_the_place_of_samples_do_not_matter(count, other, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(count, 2)), rng.normal(size=(other, 2))
    one, two = compare(a, b), compare(b[::-1] + 5.0, a[::-1] + 5.0)
    assert one.distance == pytest.approx(two.distance) and one.p == pytest.approx(two.p)
    assert compare(a, a).p == 1.0 and 0 <= one.share <= 1


def test_unlikeness_by_hand():
    """Of 1 and 9 beside 0 and 2: 1 is 1 from them and 8 from 9; 9 is 8 from both."""
    assert unlikeness(np.array([[0.0], [2.0]]), np.array([[1.0], [9.0]])).tolist() == [pytest.approx(-7), pytest.approx(0)]


def test_distances_by_hand():
    assert pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0, 5], [5, 0]]


def test_holm_by_hand():
    """Three tests: 0.02 x 3, then 0.03 x 2, then 0.5 x 1; none below the one before."""
    assert holm(np.array([0.5, 0.02, 0.03])).tolist() == [0.5, pytest.approx(0.06), pytest.approx(0.06)]
