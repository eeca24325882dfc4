"""Half-precision files: the types inside change, the model seen from outside does not."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.half import convert_to_half
from tests.deploy.qdq.test_recipes import IMAGES, exported, file

FLOAT_FREE = {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64}


def run(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"input": IMAGES})[0]


@pytest.mark.parametrize("recipe", [None, "tensorrt"])
def test_everything_inside_is_half_and_everything_outside_is_not(recipe):
    model = exported("branches")[1] if recipe is None else file("branches", recipe)
    made = convert_to_half(model)
    assert {t.data_type for t in made.graph.initializer} <= FLOAT_FREE
    assert [v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)] == [TensorProto.FLOAT] * 2
    assert [n.op_type for n in made.graph.node].count("Cast") == 2, "one cast in, one out"
    got, expected = run(made), run(model)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert run(model).tolist() == expected.tolist(), "the model it was made of is as it was"


def test_pairs_keep_their_integers_and_weights():
    model = file("branches", "tensorrt")
    made = convert_to_half(model)
    before, after = Graph(model), Graph(made)
    assert [n.name for n in after.nodes if n.op_type == "QuantizeLinear"] == [
        n.name for n in before.nodes if n.op_type == "QuantizeLinear"
    ]
    integers = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert all(np.array_equal(before.constant(name), after.constant(name)) for name in integers)
