"""NCNN's int8: float layers in its files become integer layers, as its tool ``ncnn2int8`` makes them. Host only.

The format, from ncnn's sources (src/layer, tools/quantize): a layer's text gets ``8=1`` (``8=101`` where it makes integers
too); its weight, in the file of weights, the mark of int8 before it and its scales behind it. NCNN multiplies by scales
where Q/DQ pairs divide, and has one scale for an input, so integers are symmetric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.engines.base import EngineError
from deploy.qdq.strip import IntegerLayer

FLOAT_MARK, HALF_MARK, INT8_MARK = 0, 0x01306B47, 0x000D4B38
MAKES_INTEGERS = 100
LARGEST = 127
CONVOLUTIONS = frozenset({"Convolution", "Convolution1D", "Deconvolution", "Deconvolution1D"})
DEPTHWISE = frozenset(
    {"ConvolutionDepthWise", "ConvolutionDepthWise1D", "DeconvolutionDepthWise", "DeconvolutionDepthWise1D"}
)
INTEGER = frozenset({"Convolution", "ConvolutionDepthWise", "InnerProduct"})
"""Layers that NCNN has in int8 with a scale for the input."""
NO_WEIGHTS = -233
"""NCNN's word for a size that is known when it runs."""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layer:
    """A line of NCNN's text, e.g. ``Convolution conv_0 1 1 in0 1 0=16 1=3``."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, line: str) -> Layer:
        """Read a line."""
        kind, name, inputs, outputs, *rest = line.split()
        tensors, settings = rest[: int(inputs) + int(outputs)], rest[int(inputs) + int(outputs) :]
        return cls(
            kind=kind,
            name=name,
            inputs=tuple(tensors[: int(inputs)]),
            outputs=tuple(tensors[int(inputs) :]),
            settings=tuple((int(key), value) for key, _, value in (each.partition("=") for each in settings)),
        )

    def number(self, key: int, usual: int = 0) -> int:
        """Return a whole number among the settings."""
        return next((int(float(value)) for each, value in self.settings if each == key), usual)

    def with_number(self, key: int, value: int) -> Layer:
        """Return the layer with another setting."""
        return replace(self, settings=(*(each for each in self.settings if each[0] != key), (key, str(value))))

    def __str__(self) -> str:
        ends = (*self.inputs, *self.outputs)
        settings = [f"{key}={value}" for key, value in self.settings]
        counts = [str(len(self.inputs)), str(len(self.outputs))]
        return " ".join([f"{self.kind:<24}", f"{self.name:<24}", *counts, *ends, *settings])


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A layer of NCNN's that is integer in the model: its place in the weights' file, and its integers."""

    at: int
    floats: int
    biases: int
    integer: IntegerLayer


def with_integers(
    graph: str, weights: bytes, integers: Sequence[IntegerLayer]
) -> tuple[str, bytes, dict[str, IntegerLayer]]:
    """Make layers of a converted model integer.

    Args:
        graph, weights: of the float model, weights in float32, made from the values that ``integers`` stand for.

    Returns:
        Text and weights, and the integer layers by NCNN's names. What NCNN has no int8 form for stays float.

    Raises:
        EngineError: a layer's weights are stored in a way that is not known here.
    """
    head, layers = _read(graph)
    places = _places(layers, weights, integers)
    kept = {name for name, found in places.items() if _fits(layers[name], found.integer)}
    pieces, position = [], 0
    for name, found in places.items():
        if name not in kept:
            continue
        end = found.at + 4 + 4 * found.floats
        biases = weights[end : end + 4 * found.biases]
        pieces += [weights[position : found.at], _mark(found.integer), biases, _scales(found.integer)]
        position = end + len(biases)
        layers[name] = layers[name].with_number(8, 1)
        followers = _integer_readers(layers, name, kept)
        if followers:
            layers[name] = layers[name].with_number(8, 1 + MAKES_INTEGERS)
            pieces.append(_floats([1 / places[followers[0]].integer.input_scale]))
    text = "\n".join([*head, *map(str, layers.values())]) + "\n"
    return (
        text,
        b"".join([*pieces, weights[position:]]),
        {name: found.integer for name, found in places.items() if name in kept},
    )


def calibration_table(layers: dict[str, IntegerLayer]) -> str:
    """Format scales as the table that NCNN's quantisation tools share: weights' first, then inputs'."""
    lines = [f"{name}_param_0 {_words(1 / layer.weight_scale)}" for name, layer in layers.items()]
    lines += [f"{name} {_words(np.asarray([1 / layer.input_scale]))}" for name, layer in layers.items()]
    return "\n".join(lines) + "\n"


def _words(scales: npt.NDArray[Any]) -> str:
    return " ".join(f"{scale:.9g}" for scale in scales)


def _read(graph: str) -> tuple[list[str], dict[str, Layer]]:
    lines = graph.splitlines()
    found = [Layer.parse(line) for line in lines[2:] if line.strip()]
    return lines[:2], {layer.name: layer for layer in found}


def _places(layers: dict[str, Layer], weights: bytes, integers: Sequence[IntegerLayer]) -> dict[str, _Found]:
    """Find the integer layers in the file of weights by their values; equal weights in the order of the graph."""
    left = [(layer, layer.dequantized().tobytes()) for layer in integers if layer.axis == 0]
    places: dict[str, _Found] = {}
    position = 0
    for layer in layers.values():
        for part, (size, has_mark) in enumerate(_stored(layer)):
            start = position + 4 * has_mark
            if part == 0 and layer.kind in INTEGER:
                content = weights[start : start + 4 * size]
                match = next((number for number, (_, values) in enumerate(left) if values == content), None)
                if match is not None:
                    biases = layer.number(0) if layer.number(1 if layer.kind == "InnerProduct" else 5) else 0
                    places[layer.name] = _Found(at=position, floats=size, biases=biases, integer=left.pop(match)[0])
            if has_mark and weights[position : position + 4] != FLOAT_MARK.to_bytes(4, "little"):
                raise EngineError(f"NCNN's weights of layer {layer.name} ({layer.kind}) are not where they should be")
            position = start + 4 * size
    if position != len(weights):
        raise EngineError(f"NCNN's weights are {len(weights)} bytes and {position} are known; a layer stores others")
    return places


def _stored(layer: Layer) -> Iterator[tuple[int, bool]]:
    """Yield how many floats a layer has in the file of weights, part by part, and whether a mark stands before them."""
    number, kind = layer.number, layer.kind
    if kind in CONVOLUTIONS | DEPTHWISE:
        if not number(19) and not number(28):
            yield number(6), True
            if number(5):
                yield number(0), False
    elif kind == "InnerProduct":
        yield number(2), True
        if number(1):
            yield number(0), False
    elif kind == "Gemm":
        yield from _gemm(layer)
    elif kind == "MultiHeadAttention":
        yield from _attention(layer)
    elif kind == "Embed":
        yield number(3), True
        if number(2):
            yield number(0), False
    elif kind == "BatchNorm":
        yield from [(number(0), False)] * 4
    elif kind in ("LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm"):
        channels = number(1 if kind == "GroupNorm" else 0)
        if number(3 if kind == "GroupNorm" else 2, 1):
            yield from [(channels, False)] * (1 if kind == "RMSNorm" else 2)
    elif kind == "PReLU":
        yield number(0), False
    elif kind == "Scale" and number(0) != NO_WEIGHTS:
        yield from [(number(0), False)] * (2 if number(1) else 1)
    elif kind == "Bias":
        yield number(0), False
    elif kind == "MemoryData":
        sizes = [number(key) for key in (0, 1, 11, 2) if number(key)]
        yield int(np.prod(sizes)), number(21, 1) == 0


def _gemm(layer: Layer) -> Iterator[tuple[int, bool]]:
    rows, columns, inner = (layer.number(key) for key in (7, 8, 9))
    if layer.number(4):
        yield rows * inner, True
    if layer.number(5):
        yield columns * inner, True
    if layer.number(6) and layer.number(10) != -1:
        yield {0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}[layer.number(10)], True


def _attention(layer: Layer) -> Iterator[tuple[int, bool]]:
    width, total = layer.number(0), layer.number(2)
    keys, values = layer.number(3, width), layer.number(4, width)
    for size in (total, width * keys, width * values):
        yield from [(size, True), (width, False)]
    yield from [(total, True), (total // width, False)]


def _fits(layer: Layer, integer: IntegerLayer) -> bool:
    """Return whether NCNN has such a layer in int8: a symmetric input, and of grouped convolutions a group a channel."""
    if integer.input_zero_point != 0:
        return False
    return layer.kind != "ConvolutionDepthWise" or layer.number(7) == layer.number(0)


def _mark(integer: IntegerLayer) -> bytes:
    content = np.clip(integer.weight, -LARGEST, LARGEST).astype(np.int8).tobytes()
    return INT8_MARK.to_bytes(4, "little") + content + bytes(-len(content) % 4)


def _scales(integer: IntegerLayer) -> bytes:
    return _floats(1 / integer.weight_scale) + _floats([1 / integer.input_scale])


def _floats(values: Any) -> bytes:
    return np.asarray(values, np.float32).tobytes()


def _integer_readers(layers: dict[str, Layer], name: str, integer: set[str]) -> list[str]:
    """Return the readers of a convolution's result, through copies, if all of them are integer convolutions."""
    if layers[name].kind == "InnerProduct":
        return []
    readers: list[str] = []
    tensors = list(layers[name].outputs)
    while tensors:
        tensor = tensors.pop()
        found = [layer for layer in layers.values() if tensor in layer.inputs]
        if not found:
            return []
        for layer in found:
            if layer.kind == "Split":
                tensors += layer.outputs
            elif layer.name in integer and layer.kind != "InnerProduct":
                readers.append(layer.name)
            else:
                return []
    return readers
