"""Bytes in: the same outputs as of normalised floats, with padding and without, whatever the means and the order."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.onnx_graph.take_bytes import CONVOLUTION, FORMS, NODES, take_bytes
from deploy.processing.normalisation import Normalise

STRANGE = {"mean": (0.3, 0.45, 0.6), "deviation": (0.2, 0.5, 1.5)}
GREY = {"mean": (0.3,), "deviation": (0.2,)}
CENTRED = {"mean": (0.0, 0.0, 0.0), "deviation": (0.1, 1.0, 7.0)}


def model(channels, *, pads=0, bias=True, users=1, kind="Conv"):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, channels, 3, 3)), "b": rng.normal(size=4)}
    inputs = ["input", "w", *(["b"] if bias else [])]
    nodes = [helper.make_node("Conv", inputs, [f"c{n}"], pads=[pads] * 4) for n in range(users)]
    if kind != "Conv":
        nodes = [helper.make_node(kind, ["input"], ["c0"])]
    nodes.append(helper.make_node("Relu", ["c0"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", channels, 7, 9])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", "c", "h", "w"])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outputs(made, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs})[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "settings",
    [STRANGE, {**STRANGE, "order": "bgr"}, {**STRANGE, "scale": 255.0}, GREY, CENTRED],
)
def test_outputs_are_those_of_normalised_floats(form, pads, bias, settings):
    normalise = Normalise(**settings)
    plain = model(normalise.channels, pads=pads, bias=bias)
    before = plain.SerializeToString()
    made = take_bytes(plain, normalise, form)
    onnx.checker.check_model(made)
    assert plain.SerializeToString() == before, "not changed"
    pixels = np.random.default_rng(1).integers(0, 256, (2, 7, 9, normalise.channels), dtype=np.uint8)
    wanted = outputs(plain, normalise(np.moveaxis(pixels, 3, 1)))
    got = outputs(made, pixels)
    assert np.abs(got - wanted).max() < 2e-5 * np.abs(wanted).max() and wanted.std() > 0


def test_the_convolution_takes_all_it_exactly_can():
    """Without padding no node is left but cast and layout; with it the means are taken off before, in bytes."""
    normalise = Normalise(**STRANGE)
    kinds = [node.op_type for node in take_bytes(model(3), normalise, CONVOLUTION).graph.node]
    assert kinds == ["Cast", "Transpose", "Conv", "Relu"]
    padded = take_bytes(model(3, pads=1), normalise, CONVOLUTION)
    assert [node.op_type for node in padded.graph.node] == ["Cast", "Transpose", "Sub", "Conv", "Relu"]
    means = next(each for each in padded.graph.initializer if "sub" in each.name)
    assert numpy_helper.to_array(means).reshape(-1) == pytest.approx([76.5, 114.75, 153.0])
    scaled = Normalise(mean=(0.0,), deviation=(0.5,))
    kinds = [node.op_type for node in take_bytes(model(1, pads=1), scaled, CONVOLUTION).graph.node]
    assert kinds == ["Cast", "Transpose", "Conv", "Relu"], "zeros stay zeros"


def test_a_fold_into_padding_would_be_seen():
    """Were the means taken over into the bias behind a padded convolution, the edges would differ."""
    normalise = Normalise(**GREY)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 7, 9, 1), dtype=np.uint8)
    wanted = outputs(model(1, pads=1), normalise(np.moveaxis(pixels, 3, 1)))
    wrong = take_bytes(model(1), normalise, CONVOLUTION)
    for node in wrong.graph.node:
        for each in node.attribute:
            if each.name == "pads":
                each.ints[:] = [1] * 4
    got = outputs(wrong, pixels)
    assert np.abs(got - wanted)[:, :, 1:-1, 1:-1].max() < 1e-4 < np.abs(got - wanted).max()


def test_what_cannot_take_bytes_is_left():
    normalise = Normalise(**STRANGE)
    assert take_bytes(model(3, kind="Relu"), normalise, CONVOLUTION) is None
    assert take_bytes(model(3, kind="Relu"), normalise, NODES) is not None
    assert take_bytes(model(3, users=2), normalise, CONVOLUTION) is None, "two read the input"
    assert take_bytes(model(1), normalise, NODES) is None, "other channels"
