"""When a trial stops, by hand."""

from dataclasses import replace

from compress.pipeline.search.rungs import Finished, Limits, why_stop_at_tenth, why_stop_untrained
from compress.report.search_record import Point

BOTH = ("accuracy", "latency")


def point(accuracy, latency_ms, stored=1000):
    """A point of a race whose rounds were within a hundredth."""
    times = {"latency_ms": latency_ms, "low_ms": 0.99 * latency_ms, "high_ms": 1.01 * latency_ms}
    return Point(form="openvino int8", accuracy=accuracy, **times, stored_bytes=stored, size_bytes=stored)


def finished(number, accuracy, latency_ms, gain=None, stored=1000):
    return Finished(name=f"trial {number}", point=point(accuracy, latency_ms, stored), gain=gain)


LIMITS = Limits(accuracy=90.0, latency_ms=3.0)


def test_before_training_latency_alone_can_rule_a_trial_out():
    best = [finished(0, 97.0, 1.0), finished(1, 95.0, 0.5)]
    assert why_stop_untrained(point(0.0, 0.9), best, LIMITS, BOTH) == "", "faster than what is most accurate"
    assert why_stop_untrained(point(0.0, 1.01), best, LIMITS, BOTH) == "", "as slow, within what can be measured"
    assert why_stop_untrained(point(0.0, 1.1), best, LIMITS, BOTH).startswith(
        "trial 0 is as accurate as anything yet (97.00)"
    )
    assert why_stop_untrained(point(0.0, 1.1, stored=500), best, LIMITS, (*BOTH, "size")) == "", "smaller"
    assert why_stop_untrained(point(0.0, 3.02), [], LIMITS, BOTH) == "", "over the time, within what can be measured"
    assert "latency_ms 3.5, the budget allows 3" in why_stop_untrained(point(0.0, 3.5), [], LIMITS, BOTH)
    assert why_stop_untrained(point(0.0, 2.0), [], LIMITS, BOTH) == "", "nothing is known yet"
    assert why_stop_untrained(point(0.0, 2.0), best, LIMITS, ("accuracy",)) == "", "time is no objective"


def test_after_a_tenth_the_most_that_any_won_bounds_what_can_be_won():
    known = [finished(0, 97.0, 1.0, 5.0), finished(1, 95.0, 0.5, 8.0), finished(2, 96.0, 0.8, 2.0)]
    slow = why_stop_at_tenth(point(88.9, 1.1), known, LIMITS, BOTH)
    assert slow.startswith("88.90 after a tenth of the epochs, from where no trial won more than 8.00: trial 0 has 97.00")
    assert why_stop_at_tenth(point(89.1, 1.1), known, LIMITS, BOTH) == "", "97.1 would be the most accurate"
    assert why_stop_at_tenth(point(80.0, 0.4), known, LIMITS, BOTH).endswith("the budget asks for 90.00"), "88 at most"
    assert why_stop_at_tenth(point(60.0, 1.1), known[:2], LIMITS, BOTH) == "", "two gains bound nothing"


def test_memory_is_known_before_training_and_what_is_unknown_is_over_its_limit():
    lean, heavy = (replace(point(0.0, 1.0), peak_mib=mib) for mib in (50.0, 80.0))
    limits = Limits(accuracy=90.0, peak_mib=64.0, load_ms=100.0)
    assert why_stop_untrained(lean, [], limits, BOTH) == ""
    assert "peak_mib 80, the budget allows 64" in why_stop_untrained(heavy, [], limits, BOTH)
    assert "peak_mib unknown, the budget allows 64" in why_stop_untrained(point(0.0, 1.0), [], limits, BOTH)
    assert limits.excesses(replace(lean, load_ms=150.0, accuracy=90.0)) == {
        "accuracy": 0.0,
        "peak_mib": 50 / 64 - 1,
        "load_ms": 0.5,
    }
    best = [Finished(name="trial 0", point=replace(point(97.0, 0.5), peak_mib=60.0))]
    both = ("accuracy", "memory")
    assert why_stop_untrained(lean, best, limits, both) == "", "it takes less memory"
    assert why_stop_untrained(replace(lean, peak_mib=61.0), best, limits, both).startswith("trial 0 is as accurate")


def test_excesses_are_shares_of_the_limits():
    found = LIMITS.excesses(point(81.0, 1.5))
    assert found == {"accuracy": 0.1, "latency_ms": -0.5}
    assert LIMITS.faults(point(81.0, 1.5)) == ("accuracy 81, the budget allows 90",)
