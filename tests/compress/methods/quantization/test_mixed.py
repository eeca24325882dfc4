"""Which layers leave int8, and as what: by hand, and with a device that has fast kernels of 16 bits or none."""

import numpy as np
import onnx
import pytest

from compress.data.base import ArraySamples
from compress.methods.cost_model import FloatPrices
from compress.methods.quantization.mixed import choose_forms
from compress.methods.quantization.operations import Quantize
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.models.plan import Plan
from deploy.latency.float_times import float_layer_costs_ms
from deploy.latency.stopwatch import Time
from profiles.quantization import QUANTIZATION
from tests.deploy.engines.small import IMAGES, small

ERRORS = {"a": 0.6, "b": 0.3, "c": 0.1}
WIDE = {"a": 0.05, "b": 0.29}


@pytest.mark.parametrize(
    ("longer_ms", "wide_ms", "chosen"),
    [
        # a: 0.55 for 0.1 ms beats 0.6 for 1 ms; half of 1.0 is gone with it alone.
        ({"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 0.1}, {"a": "16 bits"}),
        # Where 16 bits take longer than float, as where a processor only emulates them, nobody has them.
        ({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0}, {"a": "float"}),
        # As long as float: float, which takes more away.
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": "float"}),
        # b in float comes first (0.3 for 0.1 ms is 3 a ms, a's 0.55 for 1 ms less), and is not enough.
        ({"a": 9.0, "b": 0.1}, {"a": 1.0}, {"b": "float", "a": "16 bits"}),
        # Nothing was priced with 16 bits.
        ({"a": 1.0, "b": 1.0}, {}, {"a": "float"}),
    ],
)
def test_the_form_that_takes_most_error_away_for_a_millisecond(longer_ms, wide_ms, chosen):
    shown = frozenset(name for name, ms in wide_ms.items() if ms < longer_ms[name])
    prices = FloatPrices(whole_ms=10.0, longer_ms=longer_ms, wide_ms=wide_ms, faster_wide=shown)
    assert choose_forms(ERRORS, WIDE, 2, prices) == chosen


def test_a_layer_that_16_bits_do_not_help_is_not_given_them():
    prices = FloatPrices(whole_ms=10.0, longer_ms={}, wide_ms={"a": 0.1, "b": 0.1}, faster_wide=frozenset("ab"))
    assert choose_forms(ERRORS, {"a": 0.7, "b": 0.3}, 2, prices) == {"a": "float"}, "by error alone"


@pytest.fixture(autouse=True)
def _four_layers(monkeypatch):
    """Of a network of four layers all may leave int8."""
    monkeypatch.setattr("compress.methods.quantization.mixed.MOST_KEPT", 1.0)


def mixed(wide_ms, longer_ms=1.0):
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    asked = []

    def price(layers, wide):
        asked.append((list(layers), list(wide)))
        shown = frozenset(wide if wide_ms < longer_ms else ())
        floats, sixteen = dict.fromkeys(layers, longer_ms), dict.fromkeys(wide, wide_ms)
        return FloatPrices(whole_ms=10.0, longer_ms=floats, wide_ms=sixteen, faster_wide=shown)

    found = quantize_model(small(), samples, "ort-x86-vnni", PostTraining(biases=False, mixed=True), price=price)
    return found, asked[0]


def test_where_16_bits_cost_little_they_are_chosen_and_written():
    found, (layers, wide) = mixed(0.05)
    bits = {a.bits for a in found.quantize.placement.activations}
    assert wide and 16 in bits
    assert any("reads 16 bits: alone in int8 it makes" in note for note in found.notes)
    assert " with one of them so the model takes 0 to 0 % longer" in found.notes[-1]
    kinds = {tensor.data_type for tensor in found.onnx().graph.initializer}
    assert onnx.TensorProto.UINT16 in kinds
    entry = Plan(factory="compress.models:resnet20", arguments={}).followed_by(found.quantize).as_json()
    again = Quantize.from_json(entry["operations"][0])
    assert again.placement == found.quantize.placement


def test_where_they_cost_more_than_float_they_are_not_and_that_is_told():
    found, _ = mixed(20.0)
    assert {a.bits for a in found.quantize.placement.activations} == {8} and found.quantize.placement.kept_float
    told = "chosen for 0; with one of them so the model takes 200 to 200 % longer, with one in float 10 to 10 %"
    assert told in found.notes[0]


def test_a_runtime_without_them_is_not_asked():
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    asked = []

    def price(layers, wide):
        asked.extend(wide)
        return FloatPrices(whole_ms=10.0, longer_ms=dict.fromkeys(layers, 1.0))

    found = quantize_model(small(), samples, "x86-vnni", PostTraining(biases=False, mixed=True), price=price)
    assert not QUANTIZATION["x86-vnni"].wide and not asked and found.notes == ()


def test_the_whole_model_is_timed_with_16_bits_at_one_layer():
    class ByBits:
        """A stopwatch: 1 ms for each pair of 16 bits, and 10 beside."""

        def times(self, models):
            found = {}
            for name, make in models.items():
                wide = sum(t.data_type == onnx.TensorProto.UINT16 for t in make().graph.initializer)
                found[name] = Time(least_ms=10.0 + wide, p50_ms=0.0)
            return found

    found = float_layer_costs_ms(small(), QUANTIZATION["ort-x86-vnni"], ["a"], ByBits(), ["a", "fc"])
    assert found.longer_ms == {"a": 0.0} and found.wide_ms == {"a": 1.0, "fc": 1.0} and not found.faster_wide


@pytest.mark.parametrize(
    ("wide_ms", "shown"),
    [
        ((1.0,) * 5, True),  # two thirds of float in every pass
        ((1.0, 1.0, 1.0, 1.0, 1.6), True),  # one disturbed pass is left out
        ((1.0, 1.0, 1.0, 1.6, 1.6), False),  # two are not: the least is less, and that may be noise
        ((1.0,) * 4, False),  # fewer passes than float's
    ],
)
def test_16_bits_beat_float_by_an_interval_and_not_by_their_least_time(wide_ms, shown):
    class ByPass:
        def times(self, models):
            times = {name: wide_ms if "16 bits" in name else (1.5,) * 5 for name in models}
            return {name: Time(least_ms=min(each), p50_ms=1.0, passes_ms=each) for name, each in times.items()}

    found = float_layer_costs_ms(small(), QUANTIZATION["ort-x86-vnni"], ["a"], ByPass(), ["a", "fc"])
    assert found.wide_ms["a"] < found.longer_ms["a"]
    assert found.faster_wide == ({"a"} if shown else set()), "fc was not timed in float"


def test_a_layer_whose_16_bits_may_be_faster_by_noise_alone_is_float():
    """One of FastestDet's was chosen so, and took longer."""
    timed = {"whole_ms": 10.0, "longer_ms": {"a": 1.0, "b": 1.0}, "wide_ms": {"a": 0.1, "b": 0.1}}
    assert choose_forms(ERRORS, WIDE, 2, FloatPrices(**timed)) == {"a": "float"}
    assert choose_forms(ERRORS, WIDE, 2, FloatPrices(**timed, faster_wide=frozenset("a"))) == {"a": "16 bits"}
