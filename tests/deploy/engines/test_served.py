"""What serving.json tells is held against the engine beside it: a bundle comes from elsewhere."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploy.engines import engine
from deploy.engines.base import EngineError
from deploy.engines.served import open_served
from profiles.device import load as load_profile

SIZES = {"name": "length", "sizes": [4], "axes": {"x": 1}, "mask": "", "fill": {}, "outputs": [1, 1]}
STATE = {"name": "h", "output": 1, "shape": [4], "dtype": "float32"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An engine of y = x + h, given twice; and its plan."""
    folder = tmp_path_factory.mktemp("served")
    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in names]
        for names in (("x", "h"), ("y", "z"))
    )
    nodes = [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "sum", given, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "sum.onnx")
    runtime = engine("onnxruntime")
    plan = runtime.plan(load_profile("cpu"), "fp32", runtime.affinity().version)
    (folder / "engine").mkdir()
    runtime.build(folder / "sum.onnx", plan, folder / "engine")
    return folder / "engine", plan


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"states": [{**STATE, "name": "g"}]}, r"tells of state g \(4,\)"),
        ({"states": [{**STATE, "shape": [2**30, 2**30]}]}, "tells of state h"),
        ({"sizes": {**SIZES, "axes": {"ids": 1}}}, "ids of 4 in axis 1"),
        ({"sizes": {**SIZES, "axes": {"x": 7}}}, "x of 4 in axis 7"),
        ({"sizes": {**SIZES, "sizes": [8]}}, "x of 8 in axis 1"),
        ({"sizes": {**SIZES, "mask": {"x": 1}}}, "damaged"),
        ({"sizes": {**SIZES, "name": ["x"]}}, "damaged"),
    ],
)
def test_what_the_engine_does_not_have_is_told_when_it_is_opened(told, words, built):
    (built[0] / "serving.json").write_text(json.dumps({"sizes": None, "states": [], "every": True, **told}))
    with pytest.raises(EngineError, match=words):
        open_served(*built)


def test_an_axis_that_no_output_has_is_told(built):
    (built[0] / "serving.json").write_text(json.dumps({"sizes": {**SIZES, "outputs": [9, 9]}, "states": [], "every": True}))
    ones = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match="axes of length in the outputs"):
        open_served(*built).infer({"x": ones, "h": ones})
