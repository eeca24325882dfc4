"""Queries on an ONNX graph: producers, consumers, constants and shapes of tensors."""

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
        """Return the node that computes ``tensor``; None for inputs and constants."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that read ``tensor``, each once, in order."""
        return self._consumers.get(tensor, [])

    def is_constant(self, tensor: str) -> bool:
        """Return whether ``tensor`` is an initializer."""
        return tensor in self._constants

    def constant(self, tensor: str) -> npt.NDArray[Any]:
        """Return the value of the initializer ``tensor``."""
        return np.asarray(numpy_helper.to_array(self._constants[tensor]))

    def is_activation(self, tensor: str) -> bool:
        """Return whether ``tensor`` is a float tensor that is computed or fed."""
        return bool(tensor) and not self.is_constant(tensor) and tensor in self._float

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the sizes of ``tensor``, 0 for a free dimension."""
        return self._shape[tensor] if tensor in self._shape else self.constant(tensor).shape

    def sample_shape(self, tensor: str) -> tuple[int, ...]:
        """Return the sizes of one sample of ``tensor``: free dimensions count as 1."""
        return tuple(size or 1 for size in self.shape(tensor))

    def rank(self, tensor: str) -> int:
        """Return the number of dimensions of ``tensor``."""
        return len(self.shape(tensor))

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the single reader of ``tensor``; None when there are several or it is an output."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads."""
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, ``default`` without one."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def use_global_pools(model: onnx.ModelProto) -> None:
    """Replace means over height and width by GlobalAveragePool, which runtimes have in integers."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or not graph.is_constant(node.input[1]):
            continue
        axes = {int(axis) % 4 for axis in graph.constant(node.input[1])}
        if axes == {2, 3} and attribute(node, "keepdims", 1) == 1 and graph.rank(node.input[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]


FX_NODE = "fx_node"
"""Key of an ONNX node's metadata: the name of the captured program's node behind it."""
NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
"""Operators without negative outputs."""
