"""New ranges in the Q/DQ pairs of a model: scales and zero points of activations change, and nothing else of the file.

Weights keep their integers, biases the correction that they were made with, and the file its structure: an engine of it
takes as long as before. What pairs share one scale follows from the placement of the float graph behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from calib.ranges import merge
from deploy.engines.inputs import Inputs
from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.observe import observe
from deploy.onnx_graph.take_bytes import without_bytes
from deploy.qdq.insert import activation_range, activation_scale
from deploy.qdq.placement import COMPUTE, Placement, place
from deploy.qdq.strip import StrippedModel, strip
from deploy.qdq.wide import BITS
from profiles.quantization import QuantizationRecipe

Grids = Mapping[str, tuple[float, int]]
"""Scale and zero point by the name of a float tensor."""


def pair_placement(model: onnx.ModelProto, stripped: StrippedModel, recipe: QuantizationRecipe) -> Placement:
    """Return the placement of the pairs of ``model``, found again in its float graph.

    Raises:
        ValueError: they do not stand where ``recipe`` places them.
    """
    graph = Graph(model)
    kept = {n.name: "its weight is float" for n in graph.nodes if n.op_type in COMPUTE and not _is_integer(graph, n)}
    placement = place(without_bytes(stripped.model), recipe, kept)
    placed = {activation.tensor for activation in placement.pairs}
    if placed != set(stripped.activations):
        apart = sorted(placed ^ set(stripped.activations))
        raise ValueError(f"its pairs stand elsewhere than this version places them ({', '.join(apart[:3])})")
    return _with_bits(placement, graph)


def _with_bits(placement: Placement, graph: Graph) -> Placement:
    """Return a placement with the bits that the pairs of a model have."""
    bits = {tensor: 8 * graph.constant(node.input[2]).dtype.itemsize for node, tensor in _pairs(graph)}
    wide = {activation.source for activation in placement.pairs if bits[activation.tensor] > 8}
    activations = tuple(replace(a, bits=BITS) if a.source in wide else a for a in placement.activations)
    return replace(placement, activations=activations)


def _is_integer(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a layer's weight is a constant of integers."""
    source = graph.producer(node.input[1])
    return source is not None and source.op_type == "DequantizeLinear" and graph.is_constant(source.input[0])


def observed_grids(
    model: onnx.ModelProto, recipe: QuantizationRecipe, batches: Iterable[Inputs], method: str = "norm"
) -> dict[str, tuple[float, int]]:
    """Compute scale and zero point of each pair of ``model`` from samples, on the float graph behind its pairs.

    Args:
        batches: arrays of shape (samples, ...), or several by the names of the model's inputs.
        method: of ``calib.ranges.METHODS``.

    Raises:
        ValueError: it has no pairs, they stand elsewhere than ``recipe`` places them, or a tensor held NaN or infinity.
    """
    stripped = strip(model)
    if not stripped.activations:
        raise ValueError("it has no Q/DQ pairs")
    placement = pair_placement(model, stripped, recipe)
    observed, bits = placement.observed_tensors(), placement.bits
    histograms = observe(stripped.model, [tensor for tensors in observed.values() for tensor in tensors], batches)
    by_source = {}
    for source, tensors in observed.items():
        histogram = merge([histograms[tensor] for tensor in tensors])
        low, high = activation_range(histogram, recipe, method, bits[source])
        by_source[source] = activation_scale(low, high, recipe, bits[source])
    return {activation.tensor: by_source[activation.source] for activation in placement.pairs}


def with_grids(model: onnx.ModelProto, grids: Grids) -> onnx.ModelProto:
    """Return a copy of ``model`` whose pairs have the scales and zero points of ``grids``, by their float tensors.

    Raises:
        ValueError: a pair has no grid, or two with different ones share a constant.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = Graph(changed)
    values: dict[str, float | int] = {}
    for node, tensor in _pairs(graph):
        if tensor not in grids:
            raise ValueError(f"the pair at {tensor} has no new range")
        for name, value in zip(node.input[1:3], grids[tensor], strict=True):
            if values.setdefault(name, value) != value:
                raise ValueError(f"{name} belongs to pairs of different ranges")
    for constant in changed.graph.initializer:
        if constant.name in values:
            before = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(np.full_like(before, values[constant.name]), constant.name))
    return changed


def _pairs(graph: Graph) -> list[tuple[onnx.NodeProto, str]]:
    """List the QuantizeLinear nodes, each with the name that ``strip`` gives its float tensor."""
    sources: dict[str, str] = {}
    found: list[tuple[onnx.NodeProto, str]] = []
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and not graph.is_constant(node.input[0]):
            quantize = graph.producer(node.input[0])
            assert quantize is not None and quantize.op_type == "QuantizeLinear", "strip has taken the model"
            sources[node.output[0]] = sources.get(quantize.input[0], str(quantize.input[0]))
            found.append((quantize, sources[node.output[0]]))
    final = {sources[name]: name for name in graph.outputs if name in sources}
    return [(node, final.get(tensor, tensor)) for node, tensor in found]


def recalibrated(
    model: onnx.ModelProto, recipe: QuantizationRecipe, batches: Iterable[Inputs], method: str = "norm"
) -> onnx.ModelProto:
    """Return a copy of a model with Q/DQ pairs whose ranges are those of ``batches``.

    Raises:
        ValueError: as ``observed_grids``.
    """
    return with_grids(model, observed_grids(model, recipe, batches, method))
