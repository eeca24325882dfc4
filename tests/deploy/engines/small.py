"""A small network as ONNX, written by hand so that no exporter stands before the runtimes: strides, a residual, a mean."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)


@functools.cache
def small() -> onnx.ModelProto:
    """Two convolutions, every second pixel, a residual add, a depthwise convolution, a mean over one axis, a product."""
    random = np.random.default_rng(1)
    weights = {
        "a": random.normal(size=(8, 3, 3, 3)) / 5,
        "b": random.normal(size=(8, 8, 3, 3)) / 8,
        "d": random.normal(size=(8, 1, 3, 3)) / 3,
        "fc": random.normal(size=(4, 8)),
        "bias": random.normal(size=8),
        "fc_bias": random.normal(size=4),
    }
    integers = {"starts": [0, 0], "ends": [100, 100], "axes": [2, 3], "steps": [2, 2], "flat": [0, 8, -1], "last": [2]}
    nodes = [
        helper.make_node("Conv", ["input", "a", "bias"], ["a1"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a1"], ["a2"], "relu"),
        helper.make_node("Slice", ["a2", "starts", "ends", "axes", "steps"], ["s"], "slice"),
        helper.make_node("Conv", ["a2", "b", "bias"], ["b1"], "b", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Add", ["b1", "s"], ["sum"], "add"),
        helper.make_node("Conv", ["sum", "d", "bias"], ["d1"], "d", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["d1"], ["d2"], "relu2"),
        helper.make_node("Reshape", ["d2", "flat"], ["tokens"], "reshape"),
        helper.make_node("ReduceMean", ["tokens", "last"], ["mean"], "mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "fc", "fc_bias"], ["output"], "fc", transB=1),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])
    constants = [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items()]
    constants += [numpy_helper.from_array(np.asarray(values, np.int64), name) for name, values in integers.items()]
    graph = helper.make_graph(nodes, "small", [given], [made], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return inferred


@functools.cache
def quantised(recipe: str) -> onnx.ModelProto:
    """The same with Q/DQ pairs, ranges taken from ``IMAGES``."""
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    return post_training.apply(small(), post_training.calibrate(small(), samples, recipe, "minmax"))


def expected(model: onnx.ModelProto):
    """What ONNX Runtime makes of ``IMAGES``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": IMAGES})[0]
