from itertools import pairwise

import numpy as np
import pytest

from deploy.engines.base import Session
from deploy.measure.timing import ROUNDS, SUPPORT, Times, interleave, ratio_interval, summarise, time_block, unsteadiness


class Counting(Session):
    inputs = ()

    def __init__(self):
        self.runs = 0

    def bind(self, feed):
        pass

    def run(self):
        self.runs += 1

    def outputs(self):
        return {}


@pytest.mark.parametrize(("percentile", "needed"), [("p50", 11), ("p90", 64), ("p95", 130), ("p99", 662)])
def test_a_percentile_that_the_samples_cannot_support_is_none(percentile, needed):
    assert getattr(summarise(Times([1.0] * (needed - 1)), batch=1, threads=1), percentile) is None
    assert getattr(summarise(Times([1.0] * needed), batch=1, threads=1), percentile) == 1.0


def test_summary_by_hand():
    latency = summarise(Times([1.0] * 6 + [3.0] * 6), batch=2, threads=4)
    assert (latency.min, latency.p50, latency.samples, latency.batch, latency.threads) == (1.0, 2.0, 12, 2, 4)
    assert latency.cv == pytest.approx(0.5)


def test_a_block_is_warmed_and_never_shorter_than_a_median_needs():
    session = Counting()
    times = time_block(session, seconds=0.0)
    assert len(times) == SUPPORT[50]
    assert session.runs >= SUPPORT[50] + 5
    assert all(t >= 0 for t in times.called)


def test_variants_alternate_block_by_block():
    order = []
    timers = {name: lambda seconds, name=name: order.append(name) or Times([1.0]) for name in "abc"}
    times = interleave(timers, 1.0)
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == ROUNDS and all(sorted(each) == list("abc") for each in rounds)
    followers = {(before, after) for each in rounds for before, after in pairwise(each)}
    assert len(followers) == 6, "no variant always runs behind the same other one"
    assert {len(t) for t in times.values()} == {ROUNDS}


def test_drift_hits_all_variants_alike():
    """A machine that slows down to half during the run: the ratio of medians still is that of the variants."""
    clock = iter(np.linspace(1, 2, 2 * ROUNDS))
    timers = {"a": lambda seconds: Times([next(clock)] * 11), "b": lambda seconds: Times([2 * next(clock)] * 11)}
    times = interleave(timers, 1.0)
    assert np.median(times["b"].called) / np.median(times["a"].called) == pytest.approx(2, rel=0.05)


def test_rounds_keep_their_medians():
    timers = {"a": lambda seconds: Times([1.0, 2.0, 9.0]), "b": lambda seconds: Times([4.0, 4.0])}
    times = interleave(timers, 1.0)
    assert times["a"].medians() == [2.0] * ROUNDS and times["b"].medians() == [4.0] * ROUNDS


def test_between_what_a_ratio_lies_by_hand():
    """Ratios 1, 2, ..., 11: all but the outermost."""
    assert ratio_interval([float(n) for n in range(11, 0, -1)], [1.0] * ROUNDS) == (2.0, 10.0)


def test_the_true_ratio_lies_between_in_99_of_100_races():
    """A tenth slower, some rounds hit by something else, 2,000 races: 1.17 % are outside by the sign test."""
    random = np.random.default_rng(0)
    noise = np.exp(0.05 * random.standard_t(2, (2, 2000, ROUNDS)))
    between = [ratio_interval(1.1 * a, b) for a, b in zip(*noise, strict=True)]
    outside = np.mean([not low <= 1.1 <= high for low, high in between])
    assert 0.005 < outside < 0.02


def test_a_median_far_above_the_minimum_or_a_wide_spread_is_told():
    """Median 9 over minimum 1; and 99 ones with one of 101: mean 2, deviation sqrt(99 + 9801)/10 = 9.95, cv 4.97."""

    def told(times):
        return unsteadiness(summarise(Times(times), batch=1, threads=1))

    assert told([1.0] * 50 + [1.4] * 60) == ""
    assert told([1.0] + [9.0] * 20) == "a median of 9.000 ms is 9.0 times the minimum"
    assert told([1.0] * 99 + [101.0]) == "the coefficient of variation is 5.0"
