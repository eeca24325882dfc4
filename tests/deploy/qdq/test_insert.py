import functools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from deploy.engines.onnxruntime import ONNXRuntime, save_optimized
from deploy.export.to_onnx import capture, to_onnx
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import Scales, activation_scale, insert, weight_limit, weight_scales
from deploy.qdq.placement import Activation, place
from profiles.device import load as load_profile
from profiles.quantization import QUANTIZATION
from tests.conftest import blob_splits, small_model

VNNI, NARROW, ARM = (QUANTIZATION[n] for n in ("x86-vnni", "x86-no-vnni", "arm-dotprod"))


def test_scale_by_hand():
    assert activation_scale(0.0, 2.55, VNNI) == (pytest.approx(0.01), 0)
    scale, zero = activation_scale(-1.0, 1.55, VNNI)
    assert (scale, zero) == (pytest.approx(0.01), 100)
    scale, zero = activation_scale(-1.0, 1.55, ARM)
    assert (scale, zero) == (pytest.approx(0.01), -28)
    assert activation_scale(0.0, 0.0, VNNI) == (1.0, 0)


@given(st.floats(-100, 0), st.floats(0, 100))
def test_zero_is_exact_and_the_range_is_covered(low, high):
    for recipe in (VNNI, ARM):
        scale, zero = activation_scale(low, high, recipe)
        smallest, largest = (0, 255) if recipe.activation == "uint8" else (-128, 127)
        assert smallest <= zero <= largest
        assert (smallest - zero) * scale <= low + scale
        assert (largest - zero) * scale >= high - scale


def test_weight_scales_by_hand():
    weight = np.array([[1.0, -2.0], [0.0, 0.0], [0.5, 0.25]])
    np.testing.assert_allclose(weight_scales(weight, 0, VNNI), np.array([2.0, 1.0, 0.5]) / 127)
    np.testing.assert_allclose(weight_scales(weight, 1, VNNI), np.array([1.0, 2.0]) / 127)
    assert weight_limit(NARROW) == 63


def test_weights_round_to_the_nearest_integer():
    weight = np.array([[0.9, -1.0], [1.4, 2.6]])
    np.testing.assert_array_equal(quantize_weight(weight, np.ones(2, np.float32), 0, 127), [[1, -1], [1, 3]])


@functools.cache
def exported() -> bytes:
    return to_onnx(capture(small_model(), [torch.randn(2, 1, 16, 16)])).SerializeToString()


def quantised(recipe="x86-vnni"):
    data, model = blob_splits(), onnx.load_from_string(exported())
    found = post_training.calibrate(model, data.calibration, recipe, "mse")
    return model, post_training.apply(model, found), data


def test_the_file_is_clean():
    plain, model, _ = quantised()
    onnx.checker.check_model(model, full_check=True)
    initializers = {t.name: t for t in model.graph.initializer}
    assert not set(initializers) & {i.name for i in model.graph.input}
    read = {name for n in model.graph.node for name in n.input}
    assert set(initializers) <= read, "a constant that nobody reads is weight that is shipped"
    weights = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in initializers]
    assert len(weights) == len(place(plain, VNNI).weights)
    assert all(initializers[n.input[0]].data_type == onnx.TensorProto.INT8 for n in weights)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert all(n.input[2] in initializers and initializers[n.input[2]].data_type == 1 for n in convolutions)


@pytest.mark.parametrize("recipe", sorted(QUANTIZATION))
def test_int8_stays_near_float(recipe):
    plain, model, data = quantised(recipe)
    inputs = data.test.load(np.arange(32)).inputs
    outputs = [onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"input": inputs})[0] for m in (plain, model)]
    cosine = np.sum(outputs[0] * outputs[1]) / np.linalg.norm(outputs[0]) / np.linalg.norm(outputs[1])
    assert cosine > 0.995
    assert np.abs(outputs[0] - outputs[1]).max() > 0, "nothing was quantised"


def test_every_quantised_operator_becomes_an_integer_kernel(tmp_path):
    _, model, _ = quantised()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", 1)
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    kinds = [n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("QLinearConv") == sum(n.op_type == "Conv" for n in model.graph.node)
    assert kinds.count("QLinearAdd") == sum(n.op_type == "Add" for n in model.graph.node)
    assert "QLinearGlobalAveragePool" in kinds


class Tokens(nn.Module):
    """What a transformer does between its norms, on 4 tokens of 16."""

    def __init__(self):
        super().__init__()
        self.widen, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.narrow(functional.gelu(self.widen(x.flatten(2))))


@pytest.mark.parametrize("spreads", [True, False])
def test_products_of_tokens_stay_integers_in_onnxruntime_once_the_batch_is_fixed(spreads, tmp_path):
    samples = ArraySamples(np.random.default_rng(0).normal(size=(8, 4, 4, 4)).astype(np.float32), np.zeros(8, int))
    plain = to_onnx(capture(Tokens().eval(), [torch.from_numpy(samples.images[:2])]))
    found = post_training.quantize_model(plain, samples, "ort-x86-no-vnni", post_training.PostTraining())
    recipe = replace(QUANTIZATION["ort-x86-no-vnni"], spreads_biases=spreads)
    onnx.save(insert(found.model, found.quantize.placement, found.scales, recipe), str(tmp_path / "m.onnx"))
    plan = ONNXRuntime().plan(load_profile("cpu"), "int8", "")
    for options, integers in ((plan.options, 2), ({}, 2 if spreads else 0)):
        save_optimized(tmp_path / "m.onnx", replace(plan, options=options), tmp_path / "fused.onnx")
        kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
        assert kinds.count("MatMulIntegerToFloat") == integers
        assert kinds.count("Gemm") == 2 - integers, "left to itself the runtime makes float ones"


def test_a_placed_tensor_without_a_scale_is_refused():
    model = to_onnx(capture(small_model(), [torch.randn(2, 1, 16, 16)]))
    with pytest.raises(ValueError, match="no scale for input"):
        insert(model, place(model, VNNI), Scales(activations={}, weights={}), VNNI)


def test_a_placement_of_another_file_is_refused():
    """Pairs at tensors that a file does not have would be left out without a word, and layers run in float."""
    model = to_onnx(capture(small_model(), [torch.randn(2, 1, 16, 16)]))
    placement = place(model, VNNI)
    other = replace(placement, activations=(*placement.activations, Activation(tensor="add_42")))
    scales = Scales(
        activations={a.tensor: (0.1, 3) for a in other.activations},
        weights={w.tensor: np.ones(4, np.float32) for w in placement.weights},
    )
    with pytest.raises(ValueError, match="pairs are placed at add_42, which the model does not have"):
        insert(model, other, scales, VNNI)
