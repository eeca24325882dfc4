"""Quantisation without training: each option does what it says, and the program takes over what the file has."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.cost_model import FloatPrices
from compress.methods.quantization.adaround import learn_rounding
from compress.methods.quantization.mixed import choose_forms
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.models.plan import Plan
from compress.stages.base import Artifact
from compress.stages.quantize import QuantizeStage
from compress.stages.runner import run_stage
from deploy.export.to_onnx import capture, to_onnx
from deploy.qdq.sensitivity import sensitivities
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION
from tests.conftest import blob_splits, small_model

RECIPE = "x86-vnni"


def outputs(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


@pytest.fixture(scope="module")
def float_model():
    samples = blob_splits().calibration
    return to_onnx(capture(small_model(), [torch.from_numpy(samples.load(np.arange(2)).inputs)])), samples


def far_off(model, samples, found):
    inputs = samples.load(np.arange(len(samples))).inputs
    return np.square(outputs(found, inputs) - outputs(model, inputs)).mean()


LAYERS = {
    "conv": lambda: nn.Conv2d(3, 8, 3, 2, 1),
    "depthwise": lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "conv" else pytest.mark.slow) for k in LAYERS])
def test_learned_rounding_moves_each_weight_to_a_neighbour_and_beats_the_nearest(kind, monkeypatch):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    # inputs that go together, or the nearest would be best
    images = (rng.uniform(0, 1, (48, 1, 8, 8)) + 0.1 * rng.uniform(0, 1, (48, 3, 8, 8))).astype(np.float32)
    samples = ArraySamples(images, np.zeros(48, int))
    model = to_onnx(capture(LAYERS[kind]().eval(), [torch.from_numpy(images[:2])]))
    coarse = replace(QUANTIZATION[RECIPE], weight_bits=4)
    monkeypatch.setitem(QUANTIZATION, "coarse", coarse)
    plain = quantize_model(model, samples, "coarse", PostTraining(biases=False))
    learned = quantize_model(model, samples, "coarse", PostTraining(biases=False, rounding="learned"))
    assert far_off(model, samples, learned.onnx()) < 0.9 * far_off(model, samples, plain.onnx())
    for weight in plain.quantize.placement.weights:
        before, after = plain.tensors()[weight.tensor], learned.tensors()[weight.tensor]
        shape = [-1 if a == weight.axis else 1 for a in range(before.ndim)]
        steps = after / plain.scales.weights[weight.tensor].reshape(shape)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        limit = plain.scales.weights[weight.tensor].reshape(shape) * 7
        assert (np.abs(after - np.clip(before, -limit, limit)) < limit / 7 * 1.001).all()


def test_the_layer_that_hurts_is_found_and_stays_float_and_is_named(float_model):
    model, samples = float_model
    plain = quantize_model(model, samples, RECIPE, PostTraining(biases=False))
    layer = next(n for n in model.graph.node if n.op_type == "Conv" and "layer2" in n.name)
    wide = replace(plain.scales, weights={**plain.scales.weights})
    wide.weights[layer.input[1]] = wide.weights[layer.input[1]] * 60  # three levels are left of it
    few = [samples.load(np.arange(8)).inputs]
    found = sensitivities(model, plain.quantize.placement, wide, QUANTIZATION[RECIPE], few)
    assert next(iter(found)) == layer.name
    assert len(found) == len(plain.quantize.placement.weights)

    mixed = quantize_model(model, samples, RECIPE, PostTraining(biases=False, mixed=True))
    kept = dict(mixed.quantize.placement.kept_float)
    assert 1 <= len(kept) <= len(found) / 4
    assert all("of what all layers add to the outputs' error" in reason for reason in kept.values())
    assert far_off(model, samples, mixed.onnx()) < far_off(model, samples, plain.onnx())


ERRORS = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}


@pytest.mark.parametrize(
    ("longer_ms", "most", "chosen"),
    [
        (None, 4, ["a", "b"]),
        ({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}, 4, ["a", "b"]),
        ({"a": 5.0, "b": 0.1, "c": 0.1, "d": 0.5}, 4, ["b", "c"]),
        ({"a": 5.0, "b": 0.1, "c": 0.1, "d": -1.0}, 4, ["b", "c"]),
        ({"a": 5.0, "b": 0.1, "c": 0.1, "d": 0.1}, 1, ["a"]),
    ],
    ids=["no prices", "one price", "the largest is dear", "faster in float, of little error", "no cheap one is enough"],
)
def test_layers_stay_float_that_take_most_error_away_for_a_millisecond(longer_ms, most, chosen):
    prices = None if longer_ms is None else FloatPrices(whole_ms=10.0, longer_ms=longer_ms)
    assert choose_forms(ERRORS, {}, most, prices) == dict.fromkeys(chosen, "float")


def test_a_layer_that_is_dear_in_float_gives_way_to_those_that_are_not(float_model):
    model, samples = float_model
    options = PostTraining(biases=False, mixed=True)
    plain = dict(quantize_model(model, samples, RECIPE, options).quantize.placement.kept_float)
    asked = []

    def price(layers, wide):
        asked.extend(layers)
        return FloatPrices(whole_ms=1.0, longer_ms=dict.fromkeys(layers, 0.25))

    priced = dict(quantize_model(model, samples, RECIPE, options, price=price).quantize.placement.kept_float)
    assert set(priced) == set(plain) <= set(asked), "at one price the errors decide"
    assert all(reason.endswith("in float the model takes 25 % longer") for reason in priced.values())


@pytest.mark.parametrize(
    "options", [PostTraining(), pytest.param(PostTraining(equalise=True, rounding="learned"), marks=pytest.mark.slow)]
)
def test_the_stage_s_program_computes_what_the_file_does(float_model, options):
    model, samples = float_model
    found = quantize_model(model, samples, RECIPE, options)
    program = found.quantize.apply(small_model())
    program.adopt(found.tensors(), found.scales)
    inputs = samples.load(np.arange(16)).inputs
    with torch.no_grad():
        ours = program.eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(ours, outputs(found.onnx(), inputs), atol=0.05 * np.abs(ours).max())


def test_a_model_that_is_quantised_already_is_refused(float_model):
    model, samples = float_model
    int8 = quantize_model(model, samples, RECIPE, PostTraining(biases=False)).onnx()
    with pytest.raises(UserError, match="quantised already"):
        quantize_model(int8, samples, RECIPE, PostTraining())


def test_training_is_the_last_resort():
    tried = [QuantizeStage(epochs=3)]
    while (softer := tried[-1].softer()) is not None:
        tried.append(softer)
    assert [(stage.attempt, stage.rounding) for stage in tried] == [
        ("post_training", "nearest"), ("post_training", "learned"), ("mixed", "learned"), ("trained", "nearest"),
    ]  # fmt: skip
    assert len(tried) == QuantizeStage.most_softenings + 1, "the pipeline gets to the last one"
    assert QuantizeStage(rounding="learned").softer().attempt == "mixed"
    assert QuantizeStage(attempt="mixed", epochs=0).softer() is None


@pytest.mark.slow
def test_training_starts_where_what_is_free_ended(context):
    given = Artifact(plan=Plan(factory="tests.conftest:small_model", arguments={}), module=small_model())
    free, trained = (
        run_stage(QuantizeStage(attempt=attempt, epochs=0), given, context, 0)[0].artifact.module.state_dict()
        for attempt in ("post_training", "trained")
    )
    assert free.keys() == trained.keys()
    assert all(torch.equal(free[name], trained[name]) for name in free)


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", ["norm", "minmax"])
def test_of_several_ways_the_one_that_is_right_more_often_is_taken(spoiled, learned, context):
    """One of the two is given inputs a hundred times too small, so that its ranges clip everything."""

    def quantization(module, options):
        given = context.data.calibration
        if options.ranges == spoiled:
            given = ArraySamples(given.images / 100, given.labels)
        model = to_onnx(capture(module, [context.example]))
        return quantize_model(model, given, RECIPE, options)

    context = replace(context, quantization=quantization)
    better = {"norm": "minmax", "minmax": "norm"}[spoiled]
    chosen, asked = (run_stage(QuantizeStage(ranges=r, biases=True), learned, context, 0)[0] for r in ("best", better))
    assert chosen.artifact.plan == asked.artifact.plan
    assert any(note.startswith("int8 over minmax") for note in chosen.notes) == (spoiled == "norm")


def test_rounding_of_shared_weights_is_left_alone(float_model):
    model, samples = float_model
    found = quantize_model(model, samples, RECIPE, PostTraining(biases=False))
    none = replace(found.quantize.placement, weights=())
    made = learn_rounding(model, none, found.scales, QUANTIZATION[RECIPE], [samples.load(np.arange(4)).inputs])
    assert made.SerializeToString() == model.SerializeToString()
