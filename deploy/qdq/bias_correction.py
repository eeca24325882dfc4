"""Bias correction: subtract the mean quantisation error of a layer's outputs from its bias.

Nagel et al. 2019 (Data-Free Quantization, section 4.2) with the expectation taken over calibration samples, as in their
appendix D: each layer alone, its input from the float model. A layer is linear, so its mean output is its output for the
mean input: only what the layers read is averaged over the samples, and each layer runs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploy.engines.inputs import Inputs
from deploy.onnx_graph.graph import Graph, attribute
from deploy.onnx_graph.run import run_batches, split_batches
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import Scales, activation_type, weight_limit
from deploy.qdq.placement import Placement
from deploy.qdq.wide import raise_opset
from profiles.quantization import QuantizationRecipe

Array = npt.NDArray[np.float32]

CORRECTABLE = ("Conv", "Gemm")
PROBE = "bias_correction/"
MEAN, MEAN_QUANTIZED = f"{PROBE}mean/", f"{PROBE}mean_quantised/"
AXES = f"{PROBE}axes"


def correct_biases(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
    batches: Iterable[Inputs],
) -> onnx.ModelProto:
    """Correct the biases of convolutions and linear layers, in a copy of the float ``model``.

    Args:
        model: a float model.
        placement: the quantised tensors and weights.
        scales: the scales of ``placement``.
        batches: calibration samples, arrays of shape (samples, ...).

    Returns:
        The corrected float model; without samples a plain copy.
    """
    layers = list(_correctable_layers(Graph(model), placement))
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    read = list(dict.fromkeys(node.input[0] for node in layers))
    means = _mean_inputs(model, read, scales, placement.bits, recipe, batches) if layers else {}
    if not means:
        return corrected
    shifts = _output_errors(model, layers, means, placement, scales, recipe)
    for node in corrected.graph.node:
        if node.name in shifts:
            _add_to_bias(corrected, node, shifts[node.name])
    return corrected


def _correctable_layers(graph: Graph, placement: Placement) -> Iterator[onnx.NodeProto]:
    placed = {weight.tensor for weight in placement.weights}
    for node in graph.nodes:
        if node.op_type in CORRECTABLE and node.input[1] in placed and _has_own_bias(node, graph):
            yield node


def _has_own_bias(node: onnx.NodeProto, graph: Graph) -> bool:
    """Return whether the rows of the output are samples, and the bias is missing or a constant of this node alone."""
    if attribute(node, "transA", 0):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    return graph.is_constant(node.input[2]) and len(graph.consumers(node.input[2])) == 1


def _mean_inputs(
    model: onnx.ModelProto,
    tensors: list[str],
    scales: Scales,
    bits: Mapping[str, int],
    recipe: QuantizationRecipe,
    batches: Iterable[Inputs],
) -> dict[str, Array]:
    """Average each tensor and its quantised form over all samples, by probe name; empty without samples."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), AXES))
    if any(bits.get(tensor, 8) > 8 for tensor in tensors):
        raise_opset(probed)
    types = {tensor: activation_type(recipe, bits.get(tensor, 8)) for tensor in tensors}
    probes = [probe for tensor in tensors for probe in _add_probes(probed, tensor, scales, types[tensor])]
    totals: dict[str, npt.NDArray[np.float64] | float] = dict.fromkeys(probes, 0.0)
    samples = 0
    for count, values in run_batches(probed, probes, split_batches(model, tensors, batches)):
        samples += count
        for probe in probes:
            totals[probe] += count * values[probe].astype(np.float64)
    return {probe: np.asarray(total / samples, np.float32) for probe, total in totals.items()} if samples else {}


def _add_probes(model: onnx.ModelProto, tensor: str, scales: Scales, integer: np.dtype[Any]) -> Iterator[str]:
    """Add outputs to ``model``: the mean over samples of a tensor, and of its quantised form where it has one."""
    prefix, means = PROBE + tensor, {MEAN + tensor: tensor}
    if tensor in scales.activations:
        step, zero = scales.activations[tensor]
        constants = {"step": np.float32(step), "zero": integer.type(zero)}
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{prefix}/{name}"))
        pair = [f"{prefix}/step", f"{prefix}/zero"]
        model.graph.node.append(helper.make_node("QuantizeLinear", [tensor, *pair], [f"{prefix}/integers"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{prefix}/integers", *pair], [f"{prefix}/rounded"]))
        means[MEAN_QUANTIZED + tensor] = f"{prefix}/rounded"
    for mean, source in means.items():
        model.graph.node.append(helper.make_node("ReduceMean", [source, AXES], [mean], keepdims=1))
        yield mean


def _output_errors(
    model: onnx.ModelProto,
    layers: list[onnx.NodeProto],
    means: dict[str, Array],
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
) -> dict[str, npt.NDArray[np.float64]]:
    """Return by layer the mean output of the float form minus that of the quantised form; (channels,) each."""
    graph, axes = Graph(model), {weight.tensor: weight.axis for weight in placement.weights}
    errors: dict[str, npt.NDArray[np.float64]] = {}
    for node in layers:
        tensor, weight = node.input[:2]
        original = graph.constant(weight)
        integers = quantize_weight(original, scales.weights[weight], axes[weight], weight_limit(recipe))
        shape = [-1 if axis == axes[weight] else 1 for axis in range(integers.ndim)]
        rounded = (integers * scales.weights[weight].reshape(shape)).astype(np.float32)
        before = _layer_output(model, node, means[MEAN + tensor], original)
        after = _layer_output(model, node, means.get(MEAN_QUANTIZED + tensor, means[MEAN + tensor]), rounded)
        difference = before.astype(np.float64) - after
        errors[node.name] = difference.mean(axis=tuple(axis for axis in range(difference.ndim) if axis != 1))
    return errors


def _layer_output(model: onnx.ModelProto, layer: onnx.NodeProto, activation: Array, weight: Array) -> Array:
    """Compute a layer's output for one input, with ``weight`` and without a bias."""
    node = onnx.NodeProto()
    node.CopyFrom(layer)
    del node.input[:], node.output[:]
    node.input.extend(["input", "weight"])
    node.output.append("output")
    inputs = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, activation.shape)]
    outputs = [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "layer", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    layer_model = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    [(_, values)] = run_batches(layer_model, ["output"], [activation])
    return np.asarray(values["output"], np.float32)


def _add_to_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: npt.NDArray[np.float64]) -> None:
    name = node.input[2] if len(node.input) > 2 and node.input[2] else f"{node.name}/bias"
    before: Any = 0.0
    for position, constant in enumerate(model.graph.initializer):
        if constant.name == name:
            before = numpy_helper.to_array(constant)
            del model.graph.initializer[position]
            break
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(before + shift, np.float32), name))
    del node.input[2:]
    node.input.append(name)
