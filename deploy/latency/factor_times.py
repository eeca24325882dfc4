"""Milliseconds of a layer whole and as low-rank factors, on one engine of one device. Host only.

The layer is written out with the sizes it has in its model and a ReLU behind it, its factors as the stage will make them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.latency.measure_table import Overhead
from deploy.latency.stopwatch import Stopwatch
from deploy.onnx_graph.graph import Graph, attribute

Option = tuple[str, int]
"""``svd``, ``spatial`` or ``tucker2``, and a rank."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """Milliseconds of one layer, whole and by option of its factorisation."""

    whole_ms: float
    factors_ms: Mapping[Option, float]


@final
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a convolution or matrix product in a model.

    Attributes:
        input_shape: shape of its input. weight: (outputs, inputs, *kernel) of one to three dimensions, or (outputs, inputs).
    """

    input_shape: tuple[int, ...]
    weight: tuple[int, ...]
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0)
    dilations: tuple[int, ...] = (1, 1)


def layers(model: onnx.ModelProto, batch: int) -> dict[str, Sizes]:
    """Return the layers of a float model by module path; only those that are one plain node with a constant weight."""
    graph, sizes = Graph(model), {}
    for node in graph.nodes:
        path = node.name.partition("/")[0]
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not graph.is_constant(node.input[1]):
            continue
        shape, weight = _with_batch(graph.shape(node.input[0]), batch), graph.constant(node.input[1]).shape
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            sides = len(weight) - 2
            sizes[path] = Sizes(
                input_shape=shape,
                weight=weight,
                strides=tuple(attribute(node, "strides", [1] * sides)),
                pads=tuple(attribute(node, "pads", [0] * 2 * sides)[:sides]),
                dilations=tuple(attribute(node, "dilations", [1] * sides)),
            )
        elif node.op_type != "Conv" and len(weight) == 2:
            turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
            sizes[path] = Sizes(input_shape=shape, weight=weight if turned else weight[::-1])
    return sizes


def times(
    sizes: Mapping[str, Sizes], options: Mapping[str, Sequence[Option]], stopwatch: Stopwatch
) -> dict[str, LayerTimes]:
    """Measure the milliseconds of each layer in ``options``, whole and in each of its factorisations."""
    makers: dict[str, Callable[[], onnx.ModelProto]] = {}
    for path, choices in options.items():
        for option in (None, *choices):
            makers[_name(sizes[path], option)] = _maker(sizes[path], option)
    overhead, measured = Overhead.measure(stopwatch), stopwatch.times(makers)

    def layer_ms(layer: Sizes, option: Option | None) -> float:
        ms = measured[_name(layer, option)].least_ms
        return max(ms - overhead.call_ms(int(np.prod(layer.input_shape))), 0.1 * ms)

    return {
        path: LayerTimes(
            whole_ms=layer_ms(sizes[path], None), factors_ms={option: layer_ms(sizes[path], option) for option in choices}
        )
        for path, choices in options.items()
    }


def _name(layer: Sizes, option: Option | None) -> str:
    kind = "whole" if option is None else f"{option[0]}-{option[1]}"
    return f"layer-{kind}-{layer.input_shape}-{layer.weight}-{layer.strides}-{layer.pads}-{layer.dilations}-averaged"


def _maker(layer: Sizes, option: Option | None) -> Callable[[], onnx.ModelProto]:
    return lambda: layer_model(layer, option, averaged=True)


def layer_model(layer: Sizes, option: Option | None, *, averaged: bool = False) -> onnx.ModelProto:
    """Write the layer, or its factors, as a model with random weights.

    Args:
        averaged: a map that it gives is averaged over positions, as in ``Template.model``.
    """
    chain = _matrices(layer, option) if len(layer.weight) == 2 else _convolutions(layer, option)
    random, nodes, weights, at = np.random.default_rng(0), [], [], "positive/input"
    for index, (shape, settings) in enumerate(chain):
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:] if settings else shape[:1]))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        kind = "Conv" if settings else "MatMul"
        nodes.append(helper.make_node(kind, [at, f"w{index}"], [f"y{index}"], name=f"{index}/{kind}", **settings))
        at = f"y{index}"
    pooled = averaged and len(layer.weight) > 2
    nodes.append(helper.make_node("Relu", [at], ["last" if pooled else "output"], name="last/Relu"))
    if pooled:
        nodes.append(helper.make_node("GlobalAveragePool", ["last"], ["output"], name="last/GlobalAveragePool"))
    input_info = helper.make_tensor_value_info("positive/input", TensorProto.FLOAT, layer.input_shape)
    output_info = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", [input_info], [output_info], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _matrices(layer: Sizes, option: Option | None) -> list[tuple[tuple[int, ...], dict[str, Any]]]:
    outputs, inputs = layer.weight
    if option is None:
        return [((inputs, outputs), {})]
    return [((inputs, option[1]), {}), ((option[1], outputs), {})]


def _convolutions(layer: Sizes, option: Option | None) -> list[tuple[tuple[int, ...], dict[str, Any]]]:
    outputs, inputs, *kernel = layer.weight
    whole = (tuple(kernel), layer.strides, layer.pads, layer.dilations)

    def conv(
        out: int,
        into: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        pad: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        settings = {"kernel_shape": kernel, "strides": stride, "pads": [*pad, *pad], "dilations": dilation}
        return (out, into, *kernel), settings

    one, none = (1,) * len(kernel), (0,) * len(kernel)
    if option is None:
        return [conv(outputs, inputs, *whole)]
    kind, rank = option
    if kind == "svd":
        return [conv(rank, inputs, *whole), conv(outputs, rank, one, one, none, one)]
    if kind == "spatial":
        (height, width), (sh, sw), (ph, pw), (dh, dw) = whole
        first = conv(rank, inputs, (height, 1), (sh, 1), (ph, 0), (dh, 1))
        return [first, conv(outputs, rank, (1, width), (1, sw), (0, pw), (1, dw))]
    inner, outer = min(rank, inputs), min(rank, outputs)  # a side with fewer channels keeps them all
    core = conv(outer, inner, *whole)
    return [conv(inner, inputs, one, one, none, one), core, conv(outputs, outer, one, one, none, one)]


def _with_batch(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    return tuple(size or batch for size in shape)
