"""The smallest model an engine takes: one matrix, with no exporter in between."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny_weights():
    """The matrix, of shape (256, 4)."""
    return np.random.default_rng(7).normal(size=(256, 4)).astype(np.float32)


def tiny_onnx(path):
    """Write a model of ``input`` (batch, 1, 16, 16) and ``output`` (batch, 4); returns ``path``."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["output"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 16, 16])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])
    weights = [numpy_helper.from_array(tiny_weights(), "weights")]
    graph = helper.make_graph(nodes, "tiny", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
