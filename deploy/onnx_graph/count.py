"""Parameters and multiply-accumulates of an ONNX model: printed beside measurements, never instead of them."""

from __future__ import annotations

import math

import onnx

from deploy.onnx_graph.graph import Graph, attribute


def count_parameters(model: onnx.ModelProto) -> int:
    """Count the elements of all float initializers with at least one dimension."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in floats and len(t.dims) > 0)


def count_macs(model: onnx.ModelProto) -> int:
    """Count the multiply-accumulates of all convolutions and matrix products for one sample.

    The model's shapes must be inferred, all but the batch fixed.
    """
    graph = Graph(model)
    return sum(_node_macs(graph, node) for node in graph.nodes)


def _node_macs(graph: Graph, node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        weight = graph.constant(node.input[1]).shape if graph.is_constant(node.input[1]) else ()
        return math.prod(graph.sample_shape(node.output[0])) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose" and graph.is_constant(node.input[1]):
        return math.prod(graph.sample_shape(node.input[0])) * math.prod(graph.constant(node.input[1]).shape[1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = graph.shape(node.input[0])[0 if attribute(node, "transA", 0) else -1]
        return math.prod(graph.sample_shape(node.output[0])) * inner
    return 0
