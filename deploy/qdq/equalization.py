"""Cross-layer equalisation: scale the channels of neighbouring layers to equal ranges.

Nagel et al. 2019 (Data-Free Quantization, section 4.1, equation 11): a positive factor a channel passes through a ReLU, so
it can be taken out of one layer's outputs and put into the next one's inputs; the network computes what it did.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploy.onnx_graph.graph import Graph, attribute

ROUNDS = 20
CONVERGED = 1e-3
LARGEST_FACTOR = 1e4
Weights = npt.NDArray[np.float64]


def equalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Equalize the channels of neighbouring convolutions in a copy of a float ``model``, which computes the same.

    Pairs are repeated until no factor is far from 1. A pair is left alone when a weight or bias is shared, or anything but
    a ReLU stands between.
    """
    equalized = onnx.ModelProto()
    equalized.CopyFrom(model)
    graph = Graph(equalized)
    pairs = list(layer_pairs(graph))
    names = {name for first, second in pairs for name in (*first.input[1:], second.input[1]) if name}
    values: dict[str, Weights] = {name: graph.constant(name).astype(np.float64) for name in names}
    for _ in range(ROUNDS):
        changes = [_equalize_pair(first, second, values) for first, second in pairs]
        if not any(changes):
            break
    for tensor in equalized.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return equalized


def layer_pairs(graph: Graph) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Yield pairs of convolutions: the second is the only reader of the first, directly or through a ReLU."""
    for first in graph.nodes:
        if first.op_type != "Conv" or not _has_own_weights(graph, first):
            continue
        reader = graph.only_consumer(first.output[0])
        if reader is not None and reader.op_type == "Relu":
            reader = graph.only_consumer(reader.output[0])
        if (
            reader is not None
            and reader.op_type == "Conv"
            and _has_own_weights(graph, reader)
            and _scales_inputs(graph, reader)
        ):
            yield first, reader


def _has_own_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether weight and bias are constants of this node alone."""
    return all(graph.is_constant(name) and len(graph.consumers(name)) == 1 for name in node.input[1:] if name)


def _scales_inputs(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether the input channels can be scaled one by one: an ordinary or a depthwise convolution."""
    groups = int(attribute(node, "group", 1))
    shape = graph.shape(node.input[1])
    return groups == 1 or (groups == shape[0] and shape[1] == 1)


def _equalize_pair(first: onnx.NodeProto, second: onnx.NodeProto, values: dict[str, Weights]) -> bool:
    """Scale one pair; return whether a factor is far from 1 (equation 11)."""
    before, after = values[first.input[1]], values[second.input[1]]
    depthwise = int(attribute(second, "group", 1)) > 1
    output_range = np.abs(before).reshape(len(before), -1).max(axis=1)
    by_input = after if depthwise else np.swapaxes(after, 0, 1)
    input_range = np.abs(by_input).reshape(len(by_input), -1).max(axis=1)
    alive = (output_range > 0) & (input_range > 0)
    factor = np.ones(len(output_range))
    ratio = output_range[alive] / input_range[alive]
    factor[alive] = np.clip(np.sqrt(ratio), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    values[first.input[1]] = before / _broadcast(factor, 0, before.ndim)
    if len(first.input) > 2 and first.input[2]:
        values[first.input[2]] = values[first.input[2]] / factor
    values[second.input[1]] = after * _broadcast(factor, 0 if depthwise else 1, after.ndim)
    return bool(np.abs(np.log(factor)).max() > CONVERGED)


def _broadcast(factor: Weights, axis: int, rank: int) -> Weights:
    return factor.reshape([-1 if a == axis else 1 for a in range(rank)])
