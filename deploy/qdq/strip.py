"""Removal of Q/DQ pairs: a float model again, and what its layers had as integers, for runtimes that take both apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploy.onnx_graph.graph import Graph, attribute, drop_unused_constants

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """A layer whose input and weight were behind Q/DQ pairs.

    Attributes:
        node: name of its ONNX node.
        weight: int8 weight in the file's layout.
        weight_scale: of each output channel, (channels,).
        axis: the output-channel axis of ``weight``.
        input_scale, input_zero_point: of the tensor that it reads.
    """

    node: str
    weight: npt.NDArray[np.int8]
    weight_scale: Floats
    axis: int
    input_scale: float
    input_zero_point: int

    def dequantized(self) -> Floats:
        """Return the weight as the float numbers that its integers stand for."""
        return dequantize(self.weight, self.weight_scale, self.axis)


@dataclass(frozen=True, kw_only=True)
class StrippedModel:
    """Float model without pairs, its weights those that the integers stand for; layers and tensors that had pairs.

    Attributes:
        activations: scale and zero point of each tensor that had a pair, by its name in ``model``.
    """

    model: onnx.ModelProto
    layers: tuple[IntegerLayer, ...]
    activations: dict[str, tuple[float, int]]


def dequantize(integers: npt.NDArray[Any], scale: Floats, axis: int) -> Floats:
    """Multiply integers by the scale of their channel; in float32, as DequantizeLinear does."""
    shape = [1] * integers.ndim
    shape[axis] = -1
    return np.asarray(integers.astype(np.float32) * scale.reshape(shape), np.float32)


def strip(model: onnx.ModelProto) -> StrippedModel:
    """Take the Q/DQ pairs out of a copy of ``model``; without any the copy is the model itself, and no layer is found."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    graph = Graph(stripped)
    sources: dict[str, str] = {}  # what a DequantizeLinear makes -> the float tensor behind it
    activations: dict[str, tuple[float, int]] = {}
    weights: dict[str, tuple[npt.NDArray[np.int8], Floats, int]] = {}
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        scale = np.asarray(graph.constant(node.input[1]), np.float32)
        if graph.is_constant(node.input[0]):
            axis = int(attribute(node, "axis", 1)) if scale.ndim else 0
            integers = graph.constant(node.input[0])
            weights[node.output[0]] = integers, np.broadcast_to(scale.reshape(-1), integers.shape[axis]), axis
            stripped.graph.initializer.append(numpy_helper.from_array(dequantize(*weights[node.output[0]]), node.output[0]))
            continue
        quantize = graph.producer(node.input[0])
        assert quantize is not None and quantize.op_type == "QuantizeLinear", "pairs stand together"
        source = sources.get(quantize.input[0], str(quantize.input[0]))
        sources[node.output[0]] = source
        activations[source] = float(scale), int(graph.constant(node.input[2]))
    layers = tuple(_layers(graph, sources, activations, weights))
    final = {sources[name]: name for name in graph.outputs if name in sources}
    _rewire(stripped, graph, sources, final)
    drop_unused_constants(stripped)
    activations = {final.get(name, name): grid for name, grid in activations.items()}
    return StrippedModel(model=stripped, layers=layers, activations=activations)


def _layers(
    graph: Graph,
    sources: dict[str, str],
    activations: dict[str, tuple[float, int]],
    weights: dict[str, tuple[npt.NDArray[np.int8], Floats, int]],
) -> list[IntegerLayer]:
    found = []
    for node in graph.nodes:
        if len(node.input) < 2 or node.input[0] not in sources or node.input[1] not in weights:
            continue
        integers, weight_scale, axis = weights[node.input[1]]
        scale, zero_point = activations[sources[node.input[0]]]
        found.append(
            IntegerLayer(
                node=node.name,
                weight=integers,
                weight_scale=weight_scale,
                axis=axis,
                input_scale=scale,
                input_zero_point=zero_point,
            )
        )
    return found


def _rewire(model: onnx.ModelProto, graph: Graph, sources: dict[str, str], final: dict[str, str]) -> None:
    """Let every reader read the float tensor, and an output of the graph keep its name, by ``final``."""
    kept = [node for node in graph.nodes if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    for node in kept:
        node.input[:] = [final.get(source, source) for source in (sources.get(name, name) for name in node.input)]
        node.output[:] = [final.get(name, name) for name in node.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)
