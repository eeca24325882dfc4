"""Models whose outputs are fed back: sequences are walked on module and engine alike, from data to bundle."""

import io
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import compress
from compress.data.base import ArraySamples
from compress.data.sequences import SequenceSamples, steps_of
from compress.execution.progress import StreamProgress
from compress.models.inputs import as_tensors, call
from compress.pipeline.input_states import sequence_data, states_put_first
from compress.pipeline.remeasure import measure_rows_again
from compress.recipe.inputs import FedState
from deploy.bundle import bundle as bundles
from deploy.engines.inputs import Sequences
from deploy.engines.serving import Serving, State, walk
from profiles.errors import UserError
from tests.streaming import Spotter, detector, spotter, voices, words

QUICK = {"measure": {"seconds": 0.05, "gate_seconds": 0.05}, "accuracy_drop_points": 40.0}
H = State(name="h", output=1, shape=(1, 16))


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))


def spoken(count=300):
    return compress.split_arrays({"train": words(count)}, validation=0.2, test=0.2, calibration=32)


TRAINED = {"epochs": 20, "learning_rate": 0.02, "optimizer": "adamw", "batch_size": 32}


@pytest.mark.slow
def test_a_keyword_spotter_is_trained_measured_and_shipped(tmp_path, steps):
    """A label a sequence; a GRU whose state has the samples second is transposed in its forward."""
    report = compress.run(
        teacher={"model": "tests.streaming:spotter", **TRAINED},
        student={"from": "teacher", "width": 8},
        data=spoken(),
        states={"h": "hn"},
        stages=[compress.Distill(epochs=5, batch_size=32, optimizer="adamw", learning_rate=0.02)],
        out=tmp_path / "run",
        **QUICK,
    )
    assert {row.engine for row in report.rows} == {"openvino", "onnxruntime"}
    first = report.rows[0]
    assert first.metric.value > 75.0, "it learned, over all steps"
    for row in report.rows:
        assert row.parity.cosine > (0.99999 if row.precision == "fp32" else 0.98), "of every step of whole sequences"
        assert row.parity.samples == 32
    assert any("latency is that of one step, 12 of which are a sequence; h fed back" in note for note in report.notes)
    again = measure_rows_again(tmp_path / "run", tmp_path / "steps", StreamProgress(io.StringIO()), quiet_seconds=0)
    assert [row.name for row in again.rows] == [row.name for row in report.rows]
    folder = tmp_path / "run/bundle"
    golden = np.load(folder / "golden.npz")
    assert golden["input.frame"].shape == (16, 12, 6) and golden["output"].shape == (16, 12, 3), "whole sequences"
    assert bundles.verify(folder).cosine > 0.9999
    with bundles.opened(folder) as served:  # as a device serves it, chunk by chunk
        for _ in range(2):
            served.reset()
            chunks = [served.step({"frame": golden["input.frame"][:1, step]}) for step in range(12)]
            found = np.stack([next(iter(chunk.values())) for chunk in chunks], axis=1)
            np.testing.assert_allclose(found, golden["output"][:1], atol=1e-4)


def test_a_voice_detector_has_a_label_a_step_and_two_states(tmp_path, steps):
    data = compress.split_arrays({"train": voices()}, validation=0.25, test=0.25, calibration=16)
    report = compress.run(
        teacher={"model": "tests.streaming:detector", "epochs": 15, "learning_rate": 0.02, "optimizer": "adamw"},
        data=data,
        states={"cache": {"output": 1, "shape": [6, 3]}, "level": {"output": 2, "shape": [1]}},
        engines=["openvino"],
        out=tmp_path / "run",
        **QUICK,
    )
    assert report.rows[0].metric.value > 80.0
    assert [row.precision for row in report.rows] == ["fp32", "bf16", "int8"] or len(report.rows) >= 2
    assert all(row.parity.cosine > 0.98 for row in report.rows)
    assert report.rows[0].drop_interval is None and report.rows[1].drop_interval is not None
    saved = json.loads((tmp_path / "run/bundle/serving.json").read_text())
    assert [(state["name"], state["output"], state["shape"]) for state in saved["states"]] == [
        ("cache", 1, [6, 3]),
        ("level", 2, [1]),
    ]


@pytest.mark.slow
def test_a_file_whose_states_have_the_samples_second(tmp_path, steps):
    class Inside(Spotter):
        def forward(self, frame, h):
            hidden, state = self.gru(torch.relu(self.before(frame))[:, None], h)
            return self.head(hidden[:, 0]), state

    torch.manual_seed(0)
    module = Inside().eval()
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module,
        (torch.randn(2, 6), torch.randn(1, 2, 16)),
        input_names=["frame", "h"],
        output_names=["logits", "hn"],
        dynamic_shapes={"frame": {0: batch}, "h": {1: batch}},
        dynamo=True,
        verbose=False,
    )
    program.save(tmp_path / "m.onnx")
    report = compress.run(
        teacher={"model": str(tmp_path / "m.onnx")},
        data=spoken(100),
        states={"h": "hn"},
        engines=["onnxruntime"],
        out=tmp_path / "run",
        **QUICK,
    )
    assert all(row.parity.cosine > 0.98 for row in report.rows)
    assert json.loads((tmp_path / "run/bundle/serving.json").read_text())["states"][0]["shape"] == [1, 16]
    with bundles.opened(tmp_path / "run/bundle") as served, torch.no_grad():
        frames = torch.from_numpy(words(1)[0])
        state = torch.zeros(1, 1, 16)
        for step in range(4):
            expected, state = module(frames[:, step], state)
            found = served.step({"frame": frames[:, step].numpy()})["logits"]
            np.testing.assert_allclose(found, expected.numpy(), atol=0.2 if report.verdict.best.endswith("int8") else 1e-4)


def test_a_walk_is_the_module_called_on_the_whole_sequence():
    module, (frames, _) = spotter().eval(), words(5)
    inputs = Sequences({"frame": frames}, [H], every=True)
    with torch.no_grad():
        walked = call(module, as_tensors(inputs))
        hidden, _ = module.gru(torch.relu(module.before(torch.from_numpy(frames))))
        assert torch.allclose(walked, module.head(hidden), atol=1e-5)
        last = call(module, as_tensors(Sequences({"frame": frames}, [H], every=False)))
    assert torch.equal(last, walked[:, -1])


def test_calibration_sees_every_step_with_the_state_before_it():
    serving = Serving(states=(State(name="h", output=1, shape=(1,)),), every=False)
    frames = np.array([[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]], np.float32)
    samples = SequenceSamples(ArraySamples(frames, np.array([0, 1])), serving, "x")
    steps = steps_of(samples, serving, lambda feed: [feed["x"] + feed["h"], feed["x"] + feed["h"]])  # a running sum
    assert steps.inputs["x"].ravel().tolist() == [1, 10, 2, 20, 3, 30]
    assert steps.inputs["h"].ravel().tolist() == [0, 0, 1, 10, 3, 30]
    assert steps.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_state_that_comes_back_in_another_shape_ends_the_walk():
    with pytest.raises(ValueError, match=r"state h is \(1, 1\), and comes back as \(1, 2\) at step 0"):
        walk([State(name="h", output=0, shape=(1,))], {"x": np.zeros((1, 2, 1))}, lambda feed: [np.zeros((1, 2))])


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"hidden": "hn"}, "unknown input 'hidden'"),
        ({"h": "state"}, r"\[state\] h: the model gives no output 'state'; it gives logits, hn"),
        ({"h": 5}, r"\[state\] h: the model gives no output 5"),
        ({"h": "logits"}, r"\[state\] h: the model does not take back what it gives: .*; its shape must stay"),
        ({"h": {"output": "hn", "shape": [0]}}, r"\[state\] h shape"),
        ({"h": {"output": "hn", "form": [2]}}, "unknown key 'form'"),
        ({"h": "hn", "frame": "logits"}, "every input of the model is a state"),
    ],
)
def test_states_that_will_not_do_are_told_in_a_line(tmp_path, steps, states, told):
    with pytest.raises(UserError, match=told) as error:
        compress.run(teacher={"model": "tests.streaming:spotter"}, data=spoken(60), states=states, out=tmp_path / "run")
    assert len(str(error.value).splitlines()) <= 2


def test_shapes_that_are_not_told_or_change_are_told(tmp_path, steps):
    data = compress.split_arrays({"train": voices(40)}, validation=0.25, test=0.25, calibration=4)
    run = {"teacher": {"model": "tests.streaming:detector"}, "data": data, "out": tmp_path / "run"}
    with pytest.raises(UserError, match=r"\[state\] cache: its shape is not told.*write cache = \{ output = \"1\", shape"):
        compress.run(states={"cache": 1, "level": {"output": 2, "shape": [1]}}, **run)
    flat = compress.split_arrays({"train": (np.zeros(60, np.float32)[:, None], np.arange(60) % 2)}, calibration=4)
    run["data"] = flat
    with pytest.raises(UserError, match=r"does not take one step of the data|inputs are sequences"):
        compress.run(states={"cache": {"output": 1, "shape": [6, 3]}, "level": {"output": 2, "shape": [1]}}, **run)
    assert detector()(torch.zeros(2, 6), torch.zeros(2, 6, 3), torch.zeros(2, 1))[1].shape == (2, 6, 3)


class NeedsItsState(nn.Module):
    """A step (samples, 4) and a state that may be left out by its signature, and not in truth."""

    def forward(self, step, h=None):
        return {"logits": step + h, "hn": h}


def test_a_default_that_the_model_does_not_take_is_told():
    asked = [FedState(name="h", output="hn", shape=(4,))]
    data = compress.split_arrays({"train": (np.zeros((60, 3, 4), np.float32), np.arange(60) % 2)}, calibration=4)
    with pytest.raises(UserError, match=r"\[state\] h: forward has a default, and .* take the default off"):
        sequence_data(data, asked, NeedsItsState())


def test_a_file_of_a_state_without_a_size_asks_for_it_by_name():
    state = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["hidden", "n", 4]) for n in ("h", "hn")]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4]) for n in "xy")
    nodes = [helper.make_node("Identity", ["h"], ["hn"]), helper.make_node("Identity", ["x"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x, state[0]], [y, state[1]]))
    asked = [FedState(name="h", output="hn")]
    states_put_first(model, asked)
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[1].type.tensor_type.shape.dim]
    assert dims == ["n", "hidden", 4]
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Identity", "Identity", "Transpose"]
