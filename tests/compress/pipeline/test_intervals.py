"""Intervals against tables, by hand, and by how often they hold."""

import numpy as np
import pytest

from compress.pipeline.intervals import (
    Interval,
    mcnemar,
    mean_interval,
    paired_difference,
    student_quantile,
    values_needed,
)


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.95, 1, 6.314), (0.95, 2, 2.920), (0.99, 3, 4.541), (0.975, 10, 2.228), (0.99, 11, 2.718), (0.95, 30, 1.697)],
)
def test_students_quantiles_are_those_of_the_tables(share, degrees, value):
    assert student_quantile(share, degrees) == pytest.approx(value, abs=5e-4)


def test_a_mean_by_hand():
    found = mean_interval([1.0, 2.0, 3.0], 0.95)  # standard error 1 / sqrt(3), t of two degrees 2.920
    assert (found.low, found.middle, found.high) == pytest.approx((2 - 2.920 / 3**0.5, 2, 2 + 2.920 / 3**0.5), abs=1e-3)


def test_four_times_nearer_takes_sixteen_times_as_many():
    near, far = (values_needed([0.0, 2.0], limit, 0.99) for limit in (1.5, 3.0))
    assert near == pytest.approx(16 * far)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1
    assert mcnemar(1, 6) == mcnemar(6, 1) == pytest.approx(2 * (1 + 7) / 2**7)


def test_no_difference_seen_is_none_that_can_be_shown():
    found = paired_difference(0, 0, 50, 0.975)
    assert -found.low == pytest.approx(found.high) == pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-4)


def test_lost_and_won_are_mirror_images():
    one, other = paired_difference(7, 2, 300, 0.95), paired_difference(2, 7, 300, 0.95)
    assert (one.low, one.middle, one.high) == pytest.approx((-other.high, -other.middle, -other.low))
    assert one.low < one.middle < one.high and one.middle == pytest.approx(5 / 300)


def test_the_bounds_of_a_paired_difference_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(400, [0.02, 0.03, 0.95], size=500)
    found = [paired_difference(int(lost), int(won), 400, 0.95) for lost, won, _ in drawn]
    for held in (sum(each.low <= -0.01 for each in found), sum(each.high >= -0.01 for each in found)):
        assert 0.92 <= held / 500 <= 0.98


def test_an_interval_on_the_limit_tells_nothing():
    assert Interval(-1.0, 0.0, 3.0).against(3.0) == "fine"
    assert Interval(3.0, 4.0, 5.0).against(3.0) == "cannot tell"
    assert Interval(3.1, 4.0, 5.0).against(3.0) == "worse"
