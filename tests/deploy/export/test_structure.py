"""Graphs that are equal but for weights, and graphs that are not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.export.structure import structure_digest


def graph(seed=0, channels=4, limit=6.0, shape=(1, -1), prefix=""):
    """A convolution, a clip and a reshape; the weights by ``seed``, all names by ``prefix``."""
    weight = np.random.default_rng(seed).normal(size=(channels, 3, 3, 3)).astype(np.float32)
    constants = {"w": weight, "low": np.float32(0.0), "high": np.float32(limit), "shape": np.array(shape, np.int64)}
    nodes = [
        helper.make_node("Conv", [f"{prefix}x", f"{prefix}w"], [f"{prefix}c"], name=f"{prefix}conv"),
        helper.make_node("Clip", [f"{prefix}c", f"{prefix}low", f"{prefix}high"], [f"{prefix}r"]),
        helper.make_node("Reshape", [f"{prefix}r", f"{prefix}shape"], [f"{prefix}y"]),
    ]
    given = helper.make_tensor_value_info(f"{prefix}x", TensorProto.FLOAT, [1, 3, 8, 8])
    result = helper.make_tensor_value_info(f"{prefix}y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), prefix + name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [given], [result], tensors))


def test_weights_and_names_are_no_structure():
    assert structure_digest(graph()) == structure_digest(graph(seed=1)) == structure_digest(graph(prefix="net."))


@pytest.mark.parametrize("other", [{"channels": 5}, {"limit": 5.0}, {"shape": (-1, 1)}])
def test_widths_limits_and_shapes_are(other):
    assert structure_digest(graph()) != structure_digest(graph(**other))


def test_a_zero_point_of_zero_is_another_structure_than_one_that_is_not():
    def quantised(scale, zero):
        nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
        q = helper.make_tensor_value_info("q", TensorProto.UINT8, [1, 3])
        tensors = [
            numpy_helper.from_array(np.array([scale], np.float32), "s"),
            numpy_helper.from_array(np.array([zero], np.uint8), "z"),
        ]
        return structure_digest(onnx.helper.make_model(helper.make_graph(nodes, "g", [x], [q], tensors)))

    assert quantised(0.5, 3) == quantised(0.25, 7) != quantised(0.5, 0)
