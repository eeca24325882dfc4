"""Tables of embeddings in int8: each row to half a step of its own scale, on both runtimes, where it is worth it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.engines import engine
from deploy.qdq.insert import Scales, insert
from deploy.qdq.placement import Placement
from deploy.qdq.tables import LEAST_ROWS, quantize_tables
from profiles.device import load
from profiles.quantization import QUANTIZATION


def lookup(rows, width=16):
    random = np.random.default_rng(0)
    table = (random.normal(size=(rows, width)) * 10.0 ** random.uniform(-3, 2, (rows, 1))).astype(np.float32)
    table[3] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], "words/Gather", axis=0)],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 6])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 6, width])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), table


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_rows_are_within_half_a_step_of_their_own_scale(name, tmp_path):
    model, table = lookup(LEAST_ROWS)
    before = len(model.SerializeToString())
    quantize_tables(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < before / 2.5
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer}["table/integers"] == TensorProto.INT8
    onnx.save(model, str(tmp_path / "model.onnx"))
    runtime = engine(name)
    plan = runtime.plan(load("cpu"), "fp32", runtime.affinity().version)
    (tmp_path / "engine").mkdir()
    runtime.build(tmp_path / "model.onnx", plan, tmp_path / "engine")
    ids = np.array([[0, 3, 7, 100, 255, 7]])
    (found,) = runtime.open(tmp_path / "engine", plan).infer({"ids": ids}).values()
    step = np.abs(table[ids]).max(axis=-1, keepdims=True) / 127
    assert (np.abs(found - table[ids]) <= step / 2 * (1 + 1e-5)).all() and not found[0, 1].any()


@pytest.mark.parametrize(("recipe", "is_small"), [("x86-vnni", True), ("ort-x86-vnni", True), ("tensorrt", False)])
def test_int8_files_have_them_where_the_runtime_was_measured_with_them(recipe, is_small):
    nothing = Placement(activations=(), weights=(), kept_float=()), Scales(activations={}, weights={})
    kinds = [node.op_type for node in insert(lookup(LEAST_ROWS)[0], *nothing, QUANTIZATION[recipe]).graph.node]
    assert kinds == (["Gather", "Cast", "Gather", "Mul"] if is_small else ["Gather"])
    few = insert(lookup(LEAST_ROWS - 1)[0], *nothing, QUANTIZATION[recipe])
    assert [node.op_type for node in few.graph.node] == ["Gather"], "a small table stays"
