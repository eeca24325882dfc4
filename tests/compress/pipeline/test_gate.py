from dataclasses import replace
from types import SimpleNamespace

import pytest

from compress.pipeline.comparison import _rivals, raced, shipped
from compress.pipeline.exports import Variant
from compress.pipeline.gate import ModelMetrics, decide, undecided
from compress.recipe.spec import Budget


def standing(accuracy=90.0, latency_ms=1.0, shipped=None, size=1000, free=None):
    return ModelMetrics(
        accuracy=accuracy,
        latency_ms=latency_ms,
        form="openvino int8",
        shipped_accuracy=accuracy if shipped is None else shipped,
        size_bytes=size,
        free_accuracy=free,
    )


def word(before, after, budget=None, teacher=90.0, can_soften=True):
    return decide(before, after, teacher, budget or Budget(accuracy_drop_points=1.0), can_soften=can_soften)


def test_faster_within_the_budget_is_accepted():
    decision = word(standing(), standing(89.0, 0.5))
    assert decision.verdict == "accepted"
    assert "faster: 1.000 -> 0.500 ms (2.00x, openvino int8); validation 90.00 -> 89.00" in decision.reason


def test_the_budget_itself_is_within_the_budget():
    assert word(standing(), standing(90.0 - 1.0, 0.5)).verdict == "accepted"


@pytest.mark.parametrize(("can_soften", "verdict"), [(True, "softened"), (False, "rejected")])
def test_too_much_lost_is_softened_while_there_is_something_milder(can_soften, verdict):
    decision = word(standing(), standing(88.9, 0.5), can_soften=can_soften)
    assert decision.verdict == verdict
    assert "1.10 points under the teacher's 90.00; the budget is 1" in decision.reason


@pytest.mark.parametrize("latency", [0.99, 1.0, 1.5])
def test_what_bought_nothing_is_rejected_however_accurate_the_float_model(latency):
    decision = word(standing(), standing(90.0, latency))
    assert decision.verdict == "rejected"
    assert "bought nothing" in decision.reason


def test_more_accurate_at_the_same_speed_is_something():
    assert "more accurate" in word(standing(89.5), standing(90.0, 1.01)).reason


@pytest.mark.parametrize(
    ("points", "latency", "verdict"),
    [
        (0.11, 1.0, "accepted"),
        (0.09, 1.0, "rejected"),
        (0.11, 1.02, "accepted"),
        (0.11, 1.04, "rejected"),
        (5.0, 1.5, "rejected"),
    ],
)
def test_more_accurate_takes_a_tenth_of_a_point_and_no_loss_of_speed(points, latency, verdict):
    """1.03x slower is a loss, and no accuracy makes up for it."""
    assert word(standing(85.0), standing(85.0 + points, latency), Budget(accuracy_drop_points=9.0)).verdict == verdict


def test_smaller_is_no_gain_for_what_is_slower():
    assert word(standing(size=3 * 2**20), standing(90.0, 1.5, size=2**20), Budget(size_mib=2.0)).verdict == "rejected"


def test_a_form_is_said_to_collapse_from_ten_points_on():
    assert "without training" not in word(standing(), standing(90.0, 0.5, shipped=89.5)).reason
    for accuracy, told in ((79.0, "collapses to 79.00"), (81.0, "falls to 81.00")):
        assert told in word(standing(), standing(90.0, 0.5, shipped=accuracy)).reason


def test_smaller_counts_only_while_the_size_budget_is_not_met():
    large, small = standing(size=3 * 2**20), standing(size=2**20)
    assert word(large, small).verdict == "rejected"
    assert word(large, small, Budget(size_mib=2.0)).verdict == "accepted"
    for met in (small, standing(size=3 * 2**19)):
        assert word(met, standing(size=2**19), Budget(size_mib=2.0)).verdict == "rejected"


def test_a_model_that_collapses_in_int8_is_named():
    decision = word(standing(), standing(90.0, 0.5, shipped=40.0))
    assert decision.verdict == "accepted"
    assert "as openvino int8 without training it collapses to 40.00" in decision.reason
    little = word(standing(), standing(90.0, 0.5, shipped=87.0)).reason
    assert "as openvino int8 without training it falls to 87.00" in little


def test_trained_int8_is_shown_beside_what_was_free():
    decision = word(standing(free=89.2), standing(89.8, 0.5))
    assert "untrained int8 89.20" in decision.reason


def test_what_is_only_stored_smaller_is_accepted_whatever_the_clock_says_and_within_the_accuracy():
    whole = replace(standing(), stored_bytes=1000)
    small = replace(standing(89.5, 1.1), stored_bytes=100, packed=True)
    decision = word(whole, small)
    assert decision.verdict == "accepted" and "smaller to store" in decision.reason
    assert "1 -> 0 KiB in the bundle" in decision.reason
    assert word(whole, replace(small, accuracy=88.0)).verdict == "softened"
    assert word(whole, replace(small, stored_bytes=990)).verdict == "rejected"


@pytest.mark.parametrize(
    ("low", "high", "doubtful"),
    [
        (1.2, 1.4, False),
        (1.0, 1.4, True),
        (0.99, 1.02, False),
        (0.9, 1.0, True),
        (0.98, 1.02, False),
        (0.5, 0.9, False),
        (0.53, 1.02, True),
    ],
)
def test_rounds_that_disagree_on_a_gain_or_a_loss_are_no_decision(low, high, doubtful):
    """1.03x is a gain, less than 1 / 1.03 a loss; between them nothing happened."""
    assert undecided(low, high) == doubtful


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.75, 1.86, "rejected"), (1.029, 1.9, "rejected"), (1.031, 1.9, "accepted")]
)
def test_faster_is_what_the_lower_bound_of_the_rounds_shows_whatever_the_medians_say(low, high, verdict):
    decision = decide(standing(), standing(90.0, 0.5), 90.0, Budget(), can_soften=True, speedup=(low, high))
    assert decision.verdict == verdict
    doubt = f"; by its rounds between {low:.2f}x and {high:.2f}x"
    assert decision.reason.startswith("not shown to be faster") == decision.reason.endswith(doubt) == (verdict == "rejected")


def test_more_accurate_counts_only_where_the_rounds_show_that_it_is_not_slower():
    def verdict(speedup):
        return decide(standing(89.0), standing(90.0), 90.0, Budget(), can_soften=True, speedup=speedup).verdict

    assert (verdict((0.98, 1.01)), verdict((0.9, 1.1))) == ("accepted", "rejected")


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.10, "softened"), (0.959, "softened"), (0.961, "accepted")])
def test_a_point_is_a_hundredth_of_the_metrics_scale(accuracy, verdict):
    """0.97 of 1 under a budget of one point: 0.96 is the least."""
    decision = decide(standing(0.97), standing(accuracy, 0.5), 0.97, Budget(), can_soften=True, scale=1.0)
    assert decision.verdict == verdict
    more = decide(standing(0.960), standing(0.962), 0.97, Budget(), can_soften=True, scale=1.0)
    assert "more accurate" in more.reason, "0.2 points of a scale of 1"


class Rounds:
    """Races of ``before``, 2 ms, and ``after``, 1 ms, whose rounds lie between what is told for so many seconds."""

    def __init__(self, told):
        self.told, self.seconds = told, []

    def race(self, variants, seconds):
        self.seconds.append(seconds)
        return {"before": SimpleNamespace(p50=2.0), "after": SimpleNamespace(p50=1.0)}

    def faster(self, one, other, variants, seconds):
        assert (one, other) == ("before", "after")
        return self.told[seconds]

    def doubts(self, variants, seconds):
        return (f"busy for {seconds} s",)


@pytest.mark.parametrize(
    ("told", "seconds", "speedup"),
    [
        ({0.5: (1.9, 2.1)}, [0.5], (1.9, 2.1)),
        ({0.5: (0.5, 2.1), 2.0: (1.9, 2.2)}, [0.5, 2.0], (1.9, 2.2)),
        ({0.5: (0.5, 2.1), 2.0: (0.9, 2.1)}, [0.5, 2.0], (0.9, 2.1)),
    ],
)
def test_a_race_whose_rounds_disagree_is_run_again_longer_and_then_doubted(told, seconds, speedup):
    evaluator = Rounds(told)
    assert raced(["before"], ["after"], evaluator, 0.5, lambda form: True)[1:] == (speedup, (f"busy for {seconds[-1]} s",))
    assert evaluator.seconds == seconds


def test_the_page_states_the_thresholds_as_they_are():
    from compress.methods.cost_model import LEAST_GAIN
    from compress.pipeline.comparison import GATE_LONGER
    from compress.pipeline.gate import LEAST_POINTS
    from compress.stages.prune import Prune
    from compress.stages.quantize import QuantizeStage
    from tests.conftest import ROOT

    page = (ROOT / "docs/gate.md").read_text()
    assert f"| least gain | {LEAST_GAIN:g} |" in page and f"| least points | {LEAST_POINTS:g} |" in page
    assert f"`accuracy_drop_points`, {Budget().accuracy_drop_points:g} without" in page
    assert f"then {GATE_LONGER[1]} times as long" in page
    assert (Prune.most_softenings, QuantizeStage.most_softenings) == (2, 3)
    assert "twice at most (`quantize`: three times)" in page


@pytest.mark.parametrize(("ratio", "gained"), [(1.031, True), (1.029, False)])
def test_a_gain_is_the_same_for_the_gate_and_for_factors(ratio, gained):
    from compress.methods.cost_model import LayerPrice
    from compress.stages.low_rank import _faster

    price = LayerPrice(whole_ms=1.0, factors_ms={("svd", 4): 1 / ratio})
    assert bool(_faster({"layer": {("svd", 4): 0.1}}, {"layer": price})[0]) == gained
    assert (word(standing(), standing(90.0, 1 / ratio)).verdict == "accepted") == gained


def test_a_metric_that_does_not_fit_its_scale_is_refused():
    from compress.tasks import Metric
    from compress.tasks.classification import Classification
    from profiles.errors import UserError

    class Fraction(Classification):
        unit = ""

    class Decibel(Classification):
        unit, scale = "dB", 60.0

    def found(value, unit=""):
        return Metric(name="score", value=value, unit=unit, samples=10)

    assert (Classification().full_scale, Fraction().full_scale, Decibel().full_scale) == (100.0, 1.0, 60.0)
    for task, value in ((Classification(), 100.0), (Fraction(), 1.0), (Decibel(), 31.5), (Fraction(), 0.0)):
        task.check_metric(found(value))
    for task, value in ((Classification(), 100.1), (Fraction(), 97.0), (Decibel(), -3.0), (Fraction(), float("nan"))):
        with pytest.raises(UserError, match=f"score is {value:g} .*allowed is 0 to {task.full_scale:g}"):
            task.check_metric(found(value))


@pytest.mark.parametrize(("accuracy", "start"), [(89.5, "faster"), (85.0, "85.00 on validation is 5.00 points")])
def test_a_drop_has_its_interval_and_a_split_that_cannot_tell_the_budget_says_so(accuracy, start):
    """3 points to either side at 100 samples, a budget of 1: 900 samples; of 4: 57 are enough."""

    def reason(budget):
        return decide(
            standing(),
            standing(accuracy, 0.5),
            90.0,
            Budget(accuracy_drop_points=budget),
            can_soften=True,
            drop_interval=(-2.5, 3.5),
            samples=100,
        ).reason

    told = "; 100 validation samples tell the drop to 3.0 points, the budget is 1: about 900 would tell it from noise"
    assert reason(1.0).startswith(start) and reason(1.0).endswith(told)
    assert "-2.50 to 3.50 by 100 samples" in reason(1.0)
    assert all("from noise" not in reason(budget) for budget in (0.0, 3.0, 4.0)), "3 points: 100 samples are enough"
    if accuracy == 89.5:
        assert "(teacher 90.00, 0.50 points below it; -2.50 to 3.50 by 100 samples)" in reason(1.0)


@pytest.mark.parametrize(
    ("may", "form"),
    [({"first", "second", "third"}, "third"), ({"first", "second"}, "second"), ({"first"}, "first"), (set(), "third")],
)
def test_what_would_ship_is_the_fastest_that_may(may, form):
    latencies = {name: SimpleNamespace(p50=p50) for name, p50 in (("first", 3.0), ("second", 2.0), ("third", 1.0))}
    assert shipped(["first", "second", "third"], latencies, lambda variant: variant in may) == form


@pytest.mark.parametrize(("second_ms", "rivals"), [(1.4, {"first", "second"}), (1.6, {"first"}), (0.6, {"second"})])
def test_a_runtime_that_is_much_slower_on_the_teacher_is_left_out(second_ms, rivals):
    """Its fastest form counts, and 1.5 times slower than the fastest is much."""
    made = "teacher"
    latencies = {Variant(made, "first", "fp32"): 9.0, Variant(made, "first", "int8"): 1.0}
    latencies |= {Variant(made, "second", "fp32"): 5.0, Variant(made, "second", "int8"): second_ms}
    race = SimpleNamespace(race=lambda variants, seconds: {v: SimpleNamespace(p50=latencies[v]) for v in variants})
    assert _rivals(list(latencies), race, 0.5) == rivals
