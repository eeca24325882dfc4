"""New ranges in the pairs of a file: by hand, the same again for the same samples, and nothing else of the file."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.qdq.ranges import observed_grids, pair_placement, recalibrated, with_grids
from deploy.qdq.strip import strip
from profiles.quantization import QUANTIZATION
from tests.deploy.engines.small import IMAGES, quantised, small

MINMAX = "minmax"


def one_layer(scale: float = 1.0) -> onnx.ModelProto:
    """Pair, then a Gemm of the 2x2 weight [[1, 2], [4, -4]] / 127 * 127 in integers; (samples, 2) to (samples, 2)."""
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], name="input/Q"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="input/DQ"),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="w/DQ", axis=0),
            helper.make_node("Gemm", ["d", "wd"], ["output"], name="fc", transB=1),
        ],
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.asarray(scale, np.float32), "s"),
            numpy_helper.from_array(np.asarray(7, np.uint8), "z"),
            numpy_helper.from_array(np.asarray([[1, 2], [4, -4]], np.int8), "w"),
            numpy_helper.from_array(np.asarray([1.0, 0.5], np.float32), "ws"),
            numpy_helper.from_array(np.asarray([0, 0], np.int8), "wz"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_range_by_hand():
    """From -0.51 to 2.04 are 255 steps of 0.01, zero 51 steps from the least."""
    samples = np.asarray([[-0.51, 0.0], [2.04, 1.0]], np.float32)
    grids = observed_grids(one_layer(), QUANTIZATION["x86-vnni"], [samples], MINMAX)
    assert grids == {"input": (pytest.approx(0.01), 51)}
    changed = with_grids(one_layer(), grids)
    values = {t.name: numpy_helper.to_array(t) for t in changed.graph.initializer}
    assert values["s"] == np.float32(0.01) and values["z"] == 51 and values["z"].dtype == np.uint8
    assert values["w"].tolist() == [[1, 2], [4, -4]] and values["ws"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("recipe", ["x86-vnni", "ort-x86-vnni", "xnnpack", "litert", "tensorrt", "ncnn", "mnn"])
def test_nothing_but_scales_and_zero_points_of_activations_changes(recipe):
    model, rules = quantised(recipe), QUANTIZATION[recipe]
    changed = recalibrated(model, rules, [3 * IMAGES])
    assert [n.SerializeToString() for n in changed.graph.node] == [n.SerializeToString() for n in model.graph.node]
    of_pairs = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input[1:]}
    moved = {a.name for a, b in zip(model.graph.initializer, changed.graph.initializer, strict=True) if a != b}
    assert moved and moved <= of_pairs
    before, after = strip(model).activations["input"][0], strip(changed).activations["input"][0]
    assert after == pytest.approx(3 * before, rel=0.1), "the samples are three times as large"
    assert recalibrated(changed, rules, [3 * IMAGES]) == changed, "the same samples give the same file"


def test_tensors_that_share_a_scale_still_do():
    """Of a shuffle for OpenVINO: what a concatenation joins has one scale, of all branches together."""
    rules = QUANTIZATION["x86-vnni"]
    model = quantised("x86-vnni")
    placement = pair_placement(model, strip(model), rules)
    grids = observed_grids(model, rules, [IMAGES])
    assert all(grids[a.tensor] == grids[a.source] for a in placement.pairs)


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="no Q/DQ pairs"):
        recalibrated(small(), QUANTIZATION["x86-vnni"], [IMAGES])
    with pytest.raises(ValueError, match="stand elsewhere than this version places them"):
        recalibrated(quantised("ncnn"), QUANTIZATION["ort-x86-vnni"], [IMAGES])
    with pytest.raises(ValueError, match="the pair at input has no new range"):
        with_grids(one_layer(), {})
    with pytest.raises(ValueError, match="NaN or infinity"):
        recalibrated(one_layer(), QUANTIZATION["x86-vnni"], [np.full((2, 2), np.nan, np.float32)])
