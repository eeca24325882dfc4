"""OpenVINO's kernels against ONNX Runtime's, where its own were seen to be wrong."""

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.engines import engine
from profiles.device import load as load_profile


def integer_layers(widths, samples):
    """Fully connected layers with Q/DQ pairs, one after the other, as low-rank factors of a linear layer are."""
    rng = np.random.default_rng(0)
    constants, nodes, last = [], [], "input"

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for index, (given, made) in enumerate(pairwise(widths)):
        scale, zero = constant(f"scale_{index}", np.float32(0.02)), constant(f"zero_{index}", np.uint8(128))
        weight = constant(f"weight_{index}", rng.integers(-127, 128, (made, given)).astype(np.int8))
        scales = constant(f"scales_{index}", (0.001 + 0.01 * rng.random(made)).astype(np.float32))
        zeros = constant(f"zeros_{index}", np.zeros(made, np.int8))
        output = "output" if index == len(widths) - 2 else f"made_{index}"
        nodes += [
            helper.make_node("QuantizeLinear", [last, scale, zero], [f"q_{index}"]),
            helper.make_node("DequantizeLinear", [f"q_{index}", scale, zero], [f"given_{index}"]),
            helper.make_node("DequantizeLinear", [weight, scales, zeros], [f"w_{index}"], axis=0),
            helper.make_node("Gemm", [f"given_{index}", f"w_{index}"], [output], transB=1),
        ]
        last = output
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [samples, width])
        for name, width in (("input", widths[0]), ("output", widths[-1]))
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("widths", [(96, 16, 48), (64, 256, 64), (512, 64, 300), (96, 48)])
def test_integer_layers_in_a_row_are_computed(widths, tmp_path):
    """One sample on one thread: where OpenVINO 2026.4 fuses two layers, it gives numbers of 1e10 and more."""
    model = integer_layers(widths, 1)
    onnx.save(model, tmp_path / "model.onnx")
    openvino = engine("openvino")
    plan = openvino.plan(load_profile("cpu"), "int8", openvino.affinity().version)
    (tmp_path / "engine").mkdir()
    openvino.build(tmp_path / "model.onnx", plan, tmp_path / "engine")
    given = np.random.default_rng(1).normal(size=(1, widths[0])).astype(np.float32)
    (ours,) = openvino.open(tmp_path / "engine", plan).infer({"input": given}).values()
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": given})
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()
