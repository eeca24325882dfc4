"""Cross-layer equalisation: channels of neighbouring layers scaled so that each layer's channels have ranges alike.

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
SETTLED = 1e-3
LARGEST_FACTOR = 1e4
Weights = npt.NDArray[np.float64]


def equalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float ``model`` that computes the same, convolutions that feed one another alone equalised.

    Pairs are repeated until no factor is far from 1. A pair is left alone when a weight or bias is shared, or anything but
    a ReLU stands between.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    chosen = list(layer_pairs(graph))
    names = {name for first, second in chosen for name in (*first.input[1:], second.input[1]) if name}
    values: dict[str, Weights] = {name: graph.constant(name).astype(np.float64) for name in names}
    for _ in range(ROUNDS):
        moved = [_equalise(first, second, values) for first, second in chosen]
        if not any(moved):
            break
    for tensor in made.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return made


def layer_pairs(graph: Graph) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions of which the second alone reads what the first makes, through a ReLU or nothing."""
    for first in graph.nodes:
        if first.op_type != "Conv" or not _own(graph, first):
            continue
        reader = graph.only_consumer(first.output[0])
        if reader is not None and reader.op_type == "Relu":
            reader = graph.only_consumer(reader.output[0])
        if reader is not None and reader.op_type == "Conv" and _own(graph, reader) and _follows(graph, reader):
            yield first, reader


def _own(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether weight and bias are constants that this node alone reads."""
    return all(graph.is_constant(name) and len(graph.consumers(name)) == 1 for name in node.input[1:] if name)


def _follows(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether its input channels are told apart: an ordinary or a depthwise convolution."""
    groups = int(attribute(node, "group", 1))
    shape = graph.shape(node.input[1])
    return groups == 1 or (groups == shape[0] and shape[1] == 1)


def _equalise(first: onnx.NodeProto, second: onnx.NodeProto, values: dict[str, Weights]) -> bool:
    """Scale one pair; whether a channel moved."""
    before, after = values[first.input[1]], values[second.input[1]]
    depthwise = int(attribute(second, "group", 1)) > 1
    made = np.abs(before).reshape(len(before), -1).max(axis=1)
    by_input = after if depthwise else np.swapaxes(after, 0, 1)
    read = np.abs(by_input).reshape(len(by_input), -1).max(axis=1)
    alive = (made > 0) & (read > 0)
    factor = np.ones(len(made))
    factor[alive] = np.clip(np.sqrt(made[alive] / read[alive]), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    values[first.input[1]] = before / _along(factor, 0, before.ndim)
    if len(first.input) > 2 and first.input[2]:
        values[first.input[2]] = values[first.input[2]] / factor
    values[second.input[1]] = after * _along(factor, 0 if depthwise else 1, after.ndim)
    return bool(np.abs(np.log(factor)).max() > SETTLED)


def _along(factor: Weights, axis: int, rank: int) -> Weights:
    return factor.reshape([-1 if a == axis else 1 for a in range(rank)])
