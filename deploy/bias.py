"""Bias correction: what rounding and clipping shift a layer's outputs by on average is taken off its bias.

Nagel et al. 2019 (Data-Free Quantization, section 4.2) with the expectation taken over calibration samples, as in their
appendix D: each layer alone, its input from the float model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deploy.graph import Graph
from deploy.integers import quantize_weight
from deploy.observe import run_batches
from deploy.placement import Placement
from deploy.qdq import Scales, weight_limit
from profiles.quantization import QuantizationRecipe

CORRECTED = ("Conv", "Gemm")
PROBE = "bias_correction/"


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
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    layers = _add_probes(probed, placement, scales, recipe)
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    if not layers:
        return corrected
    totals: dict[str, npt.NDArray[np.float64] | float] = dict.fromkeys(layers, 0.0)
    samples = 0
    for count, means in run_batches(probed, [PROBE + name for name in layers], batches):
        samples += count
        for name in layers:
            totals[name] += count * means[PROBE + name].astype(np.float64)
    for node in corrected.graph.node:
        if node.name in totals and samples:
            _shift_bias(corrected, node, np.asarray(totals[node.name] / samples))
    return corrected


def _add_probes(model: onnx.ModelProto, placement: Placement, scales: Scales, recipe: QuantizationRecipe) -> list[str]:
    """Beside each placed layer its quantised twin, and the mean over samples and places of how far they are apart."""
    graph, placed = Graph(model), {weight.tensor: weight for weight in placement.weights}
    found: list[str] = []
    for node in graph.nodes:
        if node.op_type not in CORRECTED or node.input[1] not in placed or not _plain(node, graph):
            continue
        made, where = [], PROBE + node.name
        weight = placed[node.input[1]]
        scale = scales.weights[weight.tensor]
        integers = quantize_weight(graph.constant(weight.tensor), scale, weight.axis, weight_limit(recipe))
        shape = [-1 if axis == weight.axis else 1 for axis in range(integers.ndim)]
        rounded = (integers * scale.reshape(shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(rounded, f"{where}/weight"))
        source = node.input[0]
        if source in scales.activations:
            step, zero = scales.activations[source]
            constants = {"step": np.float32(step), "zero": np.dtype(recipe.activation).type(zero)}
            for name, value in constants.items():
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{where}/{name}"))
            pair = [f"{where}/step", f"{where}/zero"]
            made += [helper.make_node("QuantizeLinear", [source, *pair], [f"{where}/integers"])]
            made += [helper.make_node("DequantizeLinear", [f"{where}/integers", *pair], [f"{where}/input"])]
            source = f"{where}/input"
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name, twin.input[0], twin.input[1], twin.output[0] = where, source, f"{where}/weight", f"{where}/output"
        made += [twin, helper.make_node("Sub", [node.output[0], f"{where}/output"], [f"{where}/apart"])]
        axes = [axis for axis in range(graph.rank(node.output[0])) if axis != 1]
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{where}/axes"))
        made += [helper.make_node("ReduceMean", [f"{where}/apart", f"{where}/axes"], [where], keepdims=0)]
        model.graph.node.extend(made)
        found.append(node.name)
    return found


def _plain(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether the node's bias is a constant of its own, or missing, so that it can be changed for it alone."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    return graph.is_constant(node.input[2]) and len(graph.consumers(node.input[2])) == 1


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
