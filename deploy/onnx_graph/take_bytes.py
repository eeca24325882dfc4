"""Pictures' bytes as a model's input: layout, order of colours and normalisation as nodes, or taken over by a convolution.

``Normalise`` computes byte * f - o, channel by channel. Behind it a convolution without padding can take over both, one with
padding only f: zeros at its edges stand for the mean, so the mean, o / f in bytes, is taken off before it. Both are exact up
to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.processing.normalisation import Normalise

Array = npt.NDArray[Any]
NODES, CONVOLUTION = "nodes", "convolution"
FORMS = (NODES, CONVOLUTION)
"""Where normalisation goes: into nodes of its own, or into the first convolution as far as that is exact."""


def take_bytes(model: onnx.ModelProto, normalise: Normalise, form: str) -> onnx.ModelProto | None:
    """Return a model that takes uint8 (samples, height, width, channels); None where it cannot in this form.

    Args:
        model: takes float32 (samples, channels, height, width), normalised; it is not changed.
        form: of ``FORMS``.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {each.name: each for each in graph.initializer}
    given = [each for each in graph.input if each.name not in constants]
    if len(given) != 1 or given[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    name, dims = given[0].name, list(given[0].type.tensor_type.shape.dim)
    users = [node for node in graph.node if name in node.input]
    if len(dims) != 4 or dims[1].dim_value != normalise.channels or not users or name in {o.name for o in graph.output}:
        return None
    factor, offset = normalise.factors()
    head = _Head(name)
    head.add("Cast", to=TensorProto.FLOAT)
    head.add("Transpose", perm=[0, 3, 1, 2])
    if form == NODES:
        if normalise.order == "bgr":
            head.add("Gather", np.array([2, 1, 0], np.int64), axis=1)
        head.add("Mul", _column(factor))
        head.add("Sub", _column(offset))
    else:
        convolution = users[0]
        if len(users) != 1 or not _takes_over(convolution, constants, normalise.channels):
            return None
        means = _fold(convolution, graph, constants, factor, offset, reverse=normalise.order == "bgr")
        if means is not None:
            head.add("Sub", _column(means))
    for user in users:
        for place, each in enumerate(user.input):
            if each == name:
                user.input[place] = head.last
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*head.nodes, *kept])
    graph.initializer.extend(head.constants)
    sizes = [dims[0], dims[2], dims[3], dims[1]]
    shape = [each.dim_param or each.dim_value for each in sizes]
    given[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    return made


def without_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of what ``take_bytes`` made that begins behind its nodes; a copy of any other model.

    It takes float32 (samples, channels, height, width): normalised, or in the form ``CONVOLUTION`` bytes less their means.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {each.name for each in graph.initializer}
    given = [each for each in graph.input if each.name not in constants]
    if len(given) != 1 or given[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return made
    last, own = given[0].name, f"{given[0].name}_bytes_"
    while head := [node for node in graph.node if last in node.input and node.name.startswith(own)]:
        last = head[0].output[0]
        graph.node.remove(head[0])
    dims = list(given[0].type.tensor_type.shape.dim)
    if last == given[0].name or len(dims) != 4:
        return made
    shape = [each.dim_param or each.dim_value for each in (dims[0], dims[3], dims[1], dims[2])]
    given[0].CopyFrom(helper.make_tensor_value_info(last, TensorProto.FLOAT, shape))
    return made


class _Head:
    """Nodes in a row behind an input."""

    def __init__(self, name: str) -> None:
        self._name, self.last = name, name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, constant: Array | None = None, **attributes: Any) -> None:
        taken, result = [self.last], f"{self._name}_bytes_{operator.lower()}"
        if constant is not None:
            taken.append(f"{result}_constant")
            self.constants.append(numpy_helper.from_array(constant, taken[1]))
        self.nodes.append(helper.make_node(operator, taken, [result], name=result, **attributes))
        self.last = result


def _column(values: Array) -> Array:
    return values.astype(np.float32).reshape(1, -1, 1, 1)


def _takes_over(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], channels: int) -> bool:
    """Return whether a node is a float convolution whose weights are constants."""
    if node.op_type != "Conv" or any(each and each not in constants for each in node.input[1:]):
        return False
    weight = constants[node.input[1]]
    return weight.data_type == TensorProto.FLOAT and len(weight.dims) == 4 and weight.dims[1] == channels


def _fold(
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    constants: dict[str, onnx.TensorProto],
    factor: Array,
    offset: Array,
    *,
    reverse: bool,
) -> Array | None:
    """Multiply the weights; take the means over into the bias, or return them, in bytes, where padding forbids it.

    Channels of what is returned are in the order of the bytes.
    """
    weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
    pads = {each.name: each for each in node.attribute}
    is_padded = any(pads["pads"].ints) if "pads" in pads else False
    is_padded = is_padded or ("auto_pad" in pads and pads["auto_pad"].s not in (b"NOTSET", b"VALID"))
    means: Array | None = None
    if offset.any() and is_padded:
        means = (offset / factor)[::-1] if reverse else offset / factor
    elif offset.any():
        less = (weight * offset.reshape(1, -1, 1, 1)).sum(axis=(1, 2, 3))
        has_bias = len(node.input) > 2 and node.input[2]
        bias = numpy_helper.to_array(constants[node.input[2]]).astype(np.float64) if has_bias else np.zeros(len(weight))
        _replace(node, 2, graph, bias - less)
    scaled = weight * factor.reshape(1, -1, 1, 1)
    _replace(node, 1, graph, scaled[:, ::-1] if reverse else scaled)
    return means


def _replace(node: onnx.NodeProto, place: int, graph: onnx.GraphProto, values: Array) -> None:
    """Give a node a constant of its own in the place of another, which goes where nothing else uses it."""
    while len(node.input) <= place:
        node.input.append("")
    old, name = node.input[place], f"{node.output[0]}_bytes_{place}"
    node.input[place] = name
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    if old and not any(old in each.input for each in graph.node):
        for each in [each for each in graph.initializer if each.name == old]:
            graph.initializer.remove(each)
