"""Bias correction: what rounding and clipping shift a layer's outputs by on average is taken off its bias.

Nagel et al. 2019 (Data-Free Quantization, section 4.2) with the expectation taken over calibration samples, as in their
appendix D: each layer alone, its input from the float model. A layer is linear, so its mean output is its output for the
mean input: only what the layers read is averaged over the samples, and each layer runs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploy.onnx_graph.graph import Graph, attribute
from deploy.onnx_graph.run import run_batches, split_batches
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import Scales, weight_limit
from deploy.qdq.placement import Placement
from profiles.quantization import QuantizationRecipe

Array = npt.NDArray[np.float32]

CORRECTED = ("Conv", "Gemm")
PROBE = "bias_correction/"
MEAN, MEAN_QUANTISED = f"{PROBE}mean/", f"{PROBE}mean_quantised/"
AXES = f"{PROBE}axes"


def correct_biases(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
    batches: Iterable[npt.NDArray[Any]],
) -> onnx.ModelProto:
    """A copy of the float ``model`` whose convolutions and linear layers have corrected biases.

    Args:
        model: a float model with one input.
        batches: calibration samples, arrays of shape (samples, ...).
    """
    layers = list(_layers(Graph(model), placement))
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    read = list(dict.fromkeys(node.input[0] for node in layers))
    means = _means(model, read, scales, recipe, batches) if layers else {}
    if not means:
        return corrected
    shifts = _shifts(model, layers, means, placement, scales, recipe)
    for node in corrected.graph.node:
        if node.name in shifts:
            _shift_bias(corrected, node, shifts[node.name])
    return corrected


def _layers(graph: Graph, placement: Placement) -> Iterator[onnx.NodeProto]:
    placed = {weight.tensor for weight in placement.weights}
    for node in graph.nodes:
        if node.op_type in CORRECTED and node.input[1] in placed and _plain(node, graph):
            yield node


def _plain(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether the node's rows are samples, and its bias a constant of its own, or missing, to be changed for it alone."""
    if attribute(node, "transA", 0):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    return graph.is_constant(node.input[2]) and len(graph.consumers(node.input[2])) == 1


def _means(
    model: onnx.ModelProto,
    tensors: list[str],
    scales: Scales,
    recipe: QuantizationRecipe,
    batches: Iterable[npt.NDArray[Any]],
) -> dict[str, Array]:
    """The mean over all samples of each tensor, and of what it is as integers, by probe; empty without samples."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), AXES))
    probes = [probe for tensor in tensors for probe in _probe(probed, tensor, scales, recipe)]
    totals: dict[str, npt.NDArray[np.float64] | float] = dict.fromkeys(probes, 0.0)
    samples = 0
    for count, found in run_batches(probed, probes, split_batches(model, tensors, batches)):
        samples += count
        for probe in probes:
            totals[probe] += count * found[probe].astype(np.float64)
    return {probe: np.asarray(total / samples, np.float32) for probe, total in totals.items()} if samples else {}


def _probe(model: onnx.ModelProto, tensor: str, scales: Scales, recipe: QuantizationRecipe) -> Iterator[str]:
    """Add to ``model`` the mean over samples of a tensor, and of its quantised form where it has one."""
    where, means = PROBE + tensor, {MEAN + tensor: tensor}
    if tensor in scales.activations:
        step, zero = scales.activations[tensor]
        constants = {"step": np.float32(step), "zero": np.dtype(recipe.activation).type(zero)}
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{where}/{name}"))
        pair = [f"{where}/step", f"{where}/zero"]
        model.graph.node.append(helper.make_node("QuantizeLinear", [tensor, *pair], [f"{where}/integers"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{where}/integers", *pair], [f"{where}/rounded"]))
        means[MEAN_QUANTISED + tensor] = f"{where}/rounded"
    for mean, source in means.items():
        model.graph.node.append(helper.make_node("ReduceMean", [source, AXES], [mean], keepdims=1))
        yield mean


def _shifts(
    model: onnx.ModelProto,
    layers: list[onnx.NodeProto],
    means: dict[str, Array],
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
) -> dict[str, npt.NDArray[np.float64]]:
    """By layer how far its mean output is above that of its quantised form; (channels,) each."""
    graph, axes = Graph(model), {weight.tensor: weight.axis for weight in placement.weights}
    found: dict[str, npt.NDArray[np.float64]] = {}
    for node in layers:
        tensor, weight = node.input[:2]
        plain = graph.constant(weight)
        integers = quantize_weight(plain, scales.weights[weight], axes[weight], weight_limit(recipe))
        shape = [-1 if axis == axes[weight] else 1 for axis in range(integers.ndim)]
        rounded = (integers * scales.weights[weight].reshape(shape)).astype(np.float32)
        before = _output(model, node, means[MEAN + tensor], plain)
        after = _output(model, node, means.get(MEAN_QUANTISED + tensor, means[MEAN + tensor]), rounded)
        apart = before.astype(np.float64) - after
        found[node.name] = apart.mean(axis=tuple(axis for axis in range(apart.ndim) if axis != 1))
    return found


def _output(model: onnx.ModelProto, layer: onnx.NodeProto, given: Array, weight: Array) -> Array:
    """What a layer makes of one input with that weight and no bias."""
    alone = onnx.NodeProto()
    alone.CopyFrom(layer)
    del alone.input[:], alone.output[:]
    alone.input.extend(["given", "weight"])
    alone.output.append("made")
    taken = [helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, given.shape)]
    made = [helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph([alone], "layer", taken, made, [numpy_helper.from_array(weight, "weight")])
    one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    [(_, values)] = run_batches(one, ["made"], [given])
    return np.asarray(values["made"], np.float32)


def _shift_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: npt.NDArray[np.float64]) -> None:
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
