"""Insertion of Q/DQ pairs and int8 weights into an ONNX model, at a placement with its scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from calib.ranges import METHODS, Histogram
from deploy.onnx_graph.graph import Graph, drop_unused_constants
from deploy.packing.indices import quantize_weight
from deploy.qdq.placement import Placement
from deploy.qdq.tables import quantize_tables
from deploy.qdq.wide import raise_opset
from profiles.quantization import QuantizationRecipe

SMALLEST_RANGE = 1e-30
FLOAT_SUFFIX = "_before_its_pair"


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Scales and zero points of a placement.

    Attributes:
        activations: scale and zero point by tensor.
        weights: scale of each output channel by initializer, (channels,) each.
    """

    activations: Mapping[str, tuple[float, int]]
    weights: Mapping[str, npt.NDArray[np.float32]]


def activation_limits(recipe: QuantizationRecipe, bits: int = 8) -> tuple[int, int]:
    """Return the smallest and largest integer of an activation of ``bits``, 8 or 16."""
    return (0, 2**bits - 1) if recipe.activation == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def activation_type(recipe: QuantizationRecipe, bits: int = 8) -> np.dtype[Any]:
    """Return the integer type of an activation of ``bits``, 8 or 16."""
    return np.dtype(recipe.activation.removesuffix("8") + str(bits))


def activation_range(histogram: Histogram, recipe: QuantizationRecipe, method: str, bits: int = 8) -> tuple[float, float]:
    """Choose the range of an activation by a method of ``calib.ranges.METHODS``; with 16 bits all of it."""
    levels = activation_levels(histogram.minimum, recipe, bits)
    return METHODS[method if bits == 8 else "minmax"](histogram, levels)


def activation_levels(low: float, recipe: QuantizationRecipe, bits: int = 8) -> int:
    """Count the integers for values from ``low`` up: symmetric ones waste half on values that are never negative."""
    smallest, largest = activation_limits(recipe, bits)
    return largest + 1 if recipe.activation_symmetric and low >= 0 else largest - smallest + 1


def weight_limit(recipe: QuantizationRecipe) -> int:
    """Return the largest integer of a weight; weights are symmetric and narrow, ``-limit .. limit``."""
    return int(2 ** (recipe.weight_bits - 1) - 1)


def activation_scale(low: float, high: float, recipe: QuantizationRecipe, bits: int = 8) -> tuple[float, int]:
    """Compute scale and zero point for the range ``[low, high]``, which includes zero, with the recipe's integers.

    An empty range (a tensor that was always zero), or one that float32 cannot divide, gets scale 1.
    """
    smallest, largest = activation_limits(recipe, bits)
    if high - low < SMALLEST_RANGE:
        return 1.0, 0
    if recipe.activation_symmetric:
        return max(-low, high) / largest, 0
    scale = (high - low) / (largest - smallest)
    return scale, int(np.clip(round(smallest - low / scale), smallest, largest))


def weight_scales(weight: npt.NDArray[Any], axis: int, recipe: QuantizationRecipe) -> npt.NDArray[np.float32]:
    """Compute the scale of each channel along ``axis``: largest magnitude over largest integer; shape (channels,)."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    largest = np.abs(weight).max(axis=others)
    if not recipe.weight_per_channel:
        largest = np.full_like(largest, largest.max())
    return np.asarray(np.where(largest > 0, largest, 1.0) / weight_limit(recipe), np.float32)


def insert(model: onnx.ModelProto, placement: Placement, scales: Scales, recipe: QuantizationRecipe) -> onnx.ModelProto:
    """Insert Q/DQ pairs at the placed activations and int8 weights, in a copy of the float ``model``.

    Raises:
        ValueError: a placed tensor has no scale or is not in the model, or that cannot have activations of 16 bits.
    """
    missing = [a.tensor for a in placement.activations if a.tensor not in scales.activations]
    missing += [w.tensor for w in placement.weights if w.tensor not in scales.weights]
    if missing:
        raise ValueError(f"no scale for {', '.join(missing)}")
    graph = Graph(model)
    absent = [a.tensor for a in placement.pairs if a.tensor not in graph.inputs and graph.producer(a.tensor) is None]
    absent += [w.tensor for w in placement.weights if not graph.is_constant(w.tensor)]
    if absent:
        raise ValueError(f"pairs are placed at {', '.join(absent[:8])}, which the model does not have")
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    if any(activation.bits > 8 for activation in placement.pairs):
        raise_opset(quantized)
    if recipe.spreads_biases:
        _spread_biases(quantized, placement)
    _insert_weights(quantized, placement, scales, recipe)
    _insert_activations(quantized, placement, scales, recipe)
    if recipe.integer_tables:
        quantize_tables(quantized)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _insert_weights(model: onnx.ModelProto, placement: Placement, scales: Scales, recipe: QuantizationRecipe) -> None:
    graph = Graph(model)
    nodes: list[onnx.NodeProto] = []
    for weight in placement.weights:
        scale, name = scales.weights[weight.tensor], weight.tensor
        integers = quantize_weight(graph.constant(name), scale, weight.axis, weight_limit(recipe))
        model.graph.initializer.append(numpy_helper.from_array(integers, f"{name}_quantized"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"))
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        nodes.append(
            helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], name=f"{name}/DQ", axis=weight.axis)
        )
        _rename_input(graph.consumers(name), name, f"{name}_dequantized")
    _prepend(model, nodes)
    drop_unused_constants(model)


def _insert_activations(model: onnx.ModelProto, placement: Placement, scales: Scales, recipe: QuantizationRecipe) -> None:
    graph = Graph(model)
    after: dict[str, list[onnx.NodeProto]] = {}
    for activation in placement.pairs:
        name = activation.tensor
        source, target = _pair_ends(graph, name, recipe)
        scale, zero_point = scales.activations[name]
        constants = [np.float32(scale), activation_type(recipe, activation.bits).type(zero_point)]
        for value, suffix in zip(constants, ("scale", "zero_point"), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}_{suffix}"))
        pair = [f"{name}_scale", f"{name}_zero_point"]
        after[name] = [
            helper.make_node("QuantizeLinear", [source, *pair], [f"{name}_quantized"], name=f"{name}/Q"),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", *pair], [target], name=f"{name}/DQ"),
        ]
        _rename_input(graph.consumers(name), name, target)
    nodes = [n for i in graph.inputs for n in after.get(i, [])]
    for node in graph.nodes:
        nodes.append(node)
        for output in node.output:
            nodes += after.get(output.removesuffix(FLOAT_SUFFIX), [])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _spread_biases(model: onnx.ModelProto, placement: Placement) -> None:
    """Reshape the biases of placed MatMuls of more than two dimensions to the rank of the product: (1, 1, channels)."""
    graph, placed = Graph(model), {weight.tensor for weight in placement.weights}
    for node in graph.nodes:
        reader = graph.only_consumer(node.output[0])
        if node.op_type != "MatMul" or node.input[1] not in placed or reader is None or reader.op_type != "Add":
            continue
        rank = graph.rank(node.output[0])
        for index, name in enumerate(reader.input):
            if rank > 2 and graph.is_constant(name) and graph.rank(name) == 1:
                spread = graph.constant(name).reshape([1] * (rank - 1) + [-1])
                reader.input[index] = f"{reader.name}/{name}_spread"
                model.graph.initializer.append(numpy_helper.from_array(spread, reader.input[index]))
    drop_unused_constants(model)


def _pair_ends(graph: Graph, name: str, recipe: QuantizationRecipe) -> tuple[str, str]:
    """Return input and output of the pair at a tensor; a quantised output of the graph keeps its name behind the pair."""
    producer = graph.producer(name)
    if not (recipe.integer_results and name in graph.outputs and producer is not None):
        return name, f"{name}_dequantized"
    for index, output in enumerate(producer.output):
        if output == name:
            producer.output[index] = name + FLOAT_SUFFIX
    return name + FLOAT_SUFFIX, name


def _rename_input(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _prepend(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
