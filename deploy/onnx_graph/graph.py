"""An ONNX graph as something to ask: who makes this tensor, who reads it, which constant is it?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


class Graph:
    """An index over ``model.graph``; build a new one after the model was changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.outputs = [o.name for o in model.graph.output]
        self._constants = {t.name: t for t in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in self._constants]
        self._producer = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._consumers[name].append(node)
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self._float = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        self._shape = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes ``tensor``; None for inputs and constants."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read ``tensor``, each once, in order."""
        return self._consumers.get(tensor, [])

    def is_constant(self, tensor: str) -> bool:
        return tensor in self._constants

    def constant(self, tensor: str) -> npt.NDArray[Any]:
        """The value of the initializer ``tensor``."""
        return np.asarray(numpy_helper.to_array(self._constants[tensor]))

    def is_activation(self, tensor: str) -> bool:
        """Whether ``tensor`` is a float tensor that is computed or fed."""
        return bool(tensor) and not self.is_constant(tensor) and tensor in self._float

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Sizes of ``tensor``, 0 for a dimension that is free."""
        return self._shape[tensor] if tensor in self._shape else self.constant(tensor).shape

    def sample_shape(self, tensor: str) -> tuple[int, ...]:
        """Sizes of one sample of ``tensor``: free dimensions count as 1."""
        return tuple(size or 1 for size in self.shape(tensor))

    def rank(self, tensor: str) -> int:
        """Number of dimensions of ``tensor``."""
        return len(self.shape(tensor))

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The single reader of ``tensor``; None when there are several or it is an output."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads: they would be shipped for nothing."""
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def use_global_pools(model: onnx.ModelProto) -> None:
    """Say GlobalAveragePool where a mean over height and width is meant: runtimes have it in integers."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or not graph.is_constant(node.input[1]):
            continue
        axes = {int(axis) % 4 for axis in graph.constant(node.input[1])}
        if axes == {2, 3} and attribute(node, "keepdims", 1) == 1 and graph.rank(node.input[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]


FX_NODE = "fx_node"
"""Key of an ONNX node's metadata: the captured program's node it was made from."""


NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
