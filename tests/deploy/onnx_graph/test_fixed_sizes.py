import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deploy.onnx_graph.fixed_sizes import fix_sizes
from profiles.errors import UserError


def model():
    """Masked values and their mean: two inputs that share a free length, and one of its own."""
    inputs = [
        helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", "tokens", 3]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "tokens", 1]),
        helper.make_tensor_value_info("beside", TensorProto.FLOAT, ["n", None]),
    ]
    outputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", "tokens", 3]),
        helper.make_tensor_value_info("same", TensorProto.FLOAT, ["n", "other"]),
    ]
    nodes = [helper.make_node("Mul", ["values", "mask"], ["hidden"]), helper.make_node("Relu", ["beside"], ["same"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def sizes(value):
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


def test_free_sizes_become_the_datas_and_the_batch_stays_free():
    made = model()
    told = fix_sizes(made, {"values": (7, 3), "mask": (7, 1), "beside": (5,)})
    assert told == ["values: tokens = 7", "mask: tokens = 7", "beside: size 1 = 5"]
    assert [sizes(value) for value in made.graph.input] == [["n", 7, 3], ["n", 7, 1], ["n", 5]]
    assert sizes(made.graph.output[0]) == ["n", 7, 3], "what shares the name"
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"values": np.full((2, 7, 3), 2.0), "mask": np.full((2, 7, 1), 3.0), "beside": np.ones((2, 5))}
    hidden, same = session.run(None, {name: array.astype(np.float32) for name, array in feed.items()})
    assert hidden.shape == (2, 7, 3) and (hidden == 6).all() and same.shape == (2, 5)


def test_what_is_fixed_already_stays():
    made = model()
    fix_sizes(made, {"values": (7, 3), "mask": (7, 1), "beside": (5,)})
    before = made.SerializeToString(deterministic=True)
    assert fix_sizes(made, {"values": (9, 3), "mask": (9, 1), "beside": (4,)}) == []
    assert made.SerializeToString(deterministic=True) == before


def test_a_size_that_two_inputs_share_has_one_value():
    with pytest.raises(UserError, match="share the size tokens, and the data gives 7 and 9"):
        fix_sizes(model(), {"values": (7, 3), "mask": (9, 1), "beside": (5,)})
