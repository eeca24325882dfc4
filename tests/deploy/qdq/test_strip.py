"""Q/DQ pairs taken out again: what is left is the float model whose weights the integers stand for."""

import numpy as np
import pytest

from deploy.onnx_graph.graph import Graph
from deploy.qdq.strip import dequantize, strip
from tests.deploy.engines.small import IMAGES, expected, quantised, small


def test_dequantised_by_hand():
    integers = np.asarray([[2, -4], [10, 0]], np.int8)
    assert dequantize(integers, np.asarray([0.5, 0.1], np.float32), 0).tolist() == [[1, -2], [1, 0]]
    assert dequantize(integers, np.asarray([0.5, 0.25], np.float32), 1).tolist() == [[1, -1], [5, 0]]


@pytest.mark.parametrize("recipe", ["ncnn", "x86-vnni", "xnnpack", "tensorrt"])
def test_the_graph_is_that_of_the_float_model(recipe):
    stripped = strip(quantised(recipe))
    before, after = Graph(small()), Graph(stripped.model)
    assert [(n.name, n.op_type, n.input[0], list(n.output)) for n in after.nodes] == [
        (n.name, n.op_type, n.input[0], list(n.output)) for n in before.nodes
    ]
    assert {layer.node for layer in stripped.layers} == {"a", "b", "d", "fc"}
    found = expected(stripped.model)
    assert 0 < np.abs(found - expected(small())).max() < 0.1, "its weights are rounded, and nothing else is"
    assert len(found) == len(IMAGES)


def test_a_model_without_pairs_stays_as_it_is():
    stripped = strip(small())
    assert stripped.model == small() and not stripped.layers and not stripped.activations


def test_a_runtime_whose_layers_alone_are_integers_gets_pairs_before_layers_alone():
    assert set(strip(quantised("ncnn")).activations) == {"input", "a2", "sum", "mean"}
