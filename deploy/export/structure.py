"""Structure of an ONNX graph: what it computes, without the values of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

QUANTIZE = ("QuantizeLinear", "DequantizeLinear")


def structure_digest(model: onnx.ModelProto) -> str:
    """Hash operators, attributes, connections, shapes and types; two graphs that differ in weights alone are equal.

    Names are replaced by order of appearance. Values that decide the work stay in: 64-bit integers (shapes, axes, indices),
    booleans, single numbers outside quantisation (limits of a clip), and whether a tensor is zero throughout.
    """
    graph, numbers = model.graph, {"": -1}
    scales = {name for node in graph.node if node.op_type in QUANTIZE for name in node.input[1:]}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    facts: list[Any] = [sorted((opset.domain, opset.version) for opset in model.opset_import)]
    facts += [(number(value.name), value.type.SerializeToString(deterministic=True)) for value in graph.input]
    for node in graph.node:
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        ends = [number(name) for name in node.input], [number(name) for name in node.output]
        facts.append((node.domain, node.op_type, attributes, ends))
    facts.append([number(value.name) for value in graph.output])
    facts.append(sorted((number(tensor.name), _constant(tensor, tensor.name in scales)) for tensor in graph.initializer))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _constant(tensor: onnx.TensorProto, is_scale: bool) -> str:
    values = numpy_helper.to_array(tensor)
    kept = values.dtype in (np.int64, np.bool_) or (values.size == 1 and not is_scale)
    told = values.tobytes().hex() if kept else str(not np.any(values))
    return f"{tensor.data_type} {values.shape} {told}"
