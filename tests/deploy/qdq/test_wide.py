"""Activations of 16 bits: the grid by hand, who has them, and what ONNX Runtime computes of them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.data.base import ArraySamples
from compress.methods.quantization.post_training import calibrate
from deploy.qdq.bias_correction import correct_biases
from deploy.qdq.insert import (
    Scales,
    activation_levels,
    activation_limits,
    activation_scale,
    activation_type,
    insert,
    weight_scales,
)
from deploy.qdq.placement import place
from deploy.qdq.ranges import recalibrated
from deploy.qdq.sensitivity import sensitivities
from deploy.qdq.strip import strip
from deploy.qdq.wide import OPSET, raise_opset, widened
from profiles.quantization import QUANTIZATION
from tests.deploy.engines.small import IMAGES, expected, small

ORT, ARM = QUANTIZATION["ort-x86-vnni"], QUANTIZATION["arm-dotprod"]


def test_the_grid_by_hand():
    """65535 steps of 0.0001 from -3.2768: zero is step 32768; a signed one has it 32768 lower."""
    assert activation_limits(ORT, 16) == (0, 65535) and activation_limits(ARM, 16) == (-32768, 32767)
    assert activation_type(ORT, 16) == np.uint16 and activation_type(ARM, 16) == np.int16
    assert activation_type(ORT) == np.uint8 and activation_levels(-1.0, ORT, 16) == 65536
    assert activation_scale(-3.2768, 3.2767, ORT, 16) == (pytest.approx(1e-4), 32768)
    assert activation_scale(-3.2768, 3.2767, ARM, 16) == (pytest.approx(1e-4), 0)


def test_what_shares_a_scale_has_16_bits_too():
    """``b`` reads a2, which the slice moves to the residual add: the add reads 16 bits with it, of both branches."""
    placement = widened(small(), place(small(), ORT), ["b"], ORT)
    by_source = {a.source for a in placement.activations if a.bits == 16}
    assert by_source == {"a2", "b1"} and {a.tensor for a in placement.activations if a.bits == 16} == {"a2", "s", "b1"}
    assert widened(small(), place(small(), ORT), [], ORT) == place(small(), ORT)


def test_a_result_that_no_integer_operator_reads_has_16_bits_with_its_layer():
    """``d2``, of the last convolution, is quantised since ONNX Runtime's makes integers only, and a mean reads it."""
    assert "d2" in place(small(), ORT).bits and "d2" not in place(small(), QUANTIZATION["x86-vnni"]).bits
    bits = widened(small(), place(small(), ORT), ["d"], ORT).bits
    assert bits["sum"] == bits["d2"] == 16 and bits["input"] == bits["a2"] == bits["mean"] == 8


def quantised(wide=()):
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    quantize = calibrate(small(), samples, "ort-x86-vnni", "minmax", wide=wide)
    axes = {weight.tensor: weight.axis for weight in quantize.placement.weights}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in small().graph.initializer}
    weights = {name: weight_scales(constants[name], axis, ORT) for name, axis in axes.items()}
    scales = Scales(activations=quantize.activations, weights=weights)
    return insert(small(), quantize.placement, scales, ORT), quantize, scales


def test_onnx_runtime_computes_with_them():
    """All that is left of the error is the weights': it is what a float model of the rounded weights makes."""
    wide, quantize, _ = quantised(["a", "b", "d", "fc"])
    assert wide.opset_import[0].version == OPSET and quantize.placement.bits["input"] == 16
    zeros = {node.input[2]: quantize.placement.bits[node.input[0]] for node in _quantizers(wide)}
    kinds = {8: TensorProto.UINT8, 16: TensorProto.UINT16}
    assert {t.data_type == kinds[zeros[t.name]] for t in wide.graph.initializer if t.name in zeros} == {True}
    rounded = expected(strip(wide).model)
    eight = np.median(np.abs(expected(quantised()[0]) - expected(strip(quantised()[0]).model)))
    assert np.median(np.abs(expected(wide) - rounded)) < eight / 20, "but for what leaves the range of the float weights"


def _quantizers(model):
    return [node for node in model.graph.node if node.op_type == "QuantizeLinear"]


def test_each_layer_alone_is_nearer_to_float_than_in_8_bits():
    def errors(wide):
        _, quantize, scales = quantised(wide)
        return sensitivities(small(), quantize.placement, scales, ORT, [IMAGES], layers=["a", "b", "fc"])

    eight, sixteen = errors([]), errors(["a", "b", "d", "fc"])
    assert set(eight) == {"a", "b", "fc"} and all(sixteen[layer] < eight[layer] for layer in eight)


def test_biases_are_corrected_for_the_bits_that_are_read():
    _, quantize, scales = quantised(["a", "b", "d", "fc"])
    corrected = correct_biases(small(), quantize.placement, scales, ORT, [IMAGES])
    onnx.checker.check_model(insert(corrected, quantize.placement, scales, ORT), full_check=True)
    assert corrected.opset_import[0].version == small().opset_import[0].version, "the probes' opset is not the model's"


def test_new_ranges_keep_the_bits():
    model = quantised(["b"])[0]
    changed = recalibrated(model, ORT, [2 * IMAGES], "minmax")
    for before, after in zip(model.graph.initializer, changed.graph.initializer, strict=True):
        assert before.data_type == after.data_type, before.name
    grids = strip(model).activations, strip(changed).activations
    assert grids[1]["a2"][0] > 1.2 * grids[0]["a2"][0]


def test_an_operator_that_means_something_else_from_then_on_is_told():
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    graph = helper.make_graph([node], "g", [], [])
    with pytest.raises(ValueError, match="GroupNormalization cannot be raised to opset 21"):
        raise_opset(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
