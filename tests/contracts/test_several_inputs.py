"""Models with several inputs: every step, every engine, and the bundle, as with one."""

import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import compress
from compress.data.base import NamedSamples
from compress.execution.progress import StreamProgress
from compress.methods.quantization.post_training import calibrate
from compress.models.inputs import InputShape, call
from compress.models.plan import PLAN, Plan
from compress.pipeline.remeasure import measure_rows_again
from deploy.bundle import golden
from deploy.engines import engine
from deploy.export import from_onnx
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load
from profiles.errors import UserError
from tests.several_inputs import pair, pairs, text, texts

KINDS = {"images": (pair, pairs), "ids and a mask": (text, texts)}


@pytest.fixture(params=KINDS)
def kind(request):
    model, data = KINDS[request.param]
    module = model().eval()
    return module, data()[0]


def as_tensors(inputs, count=None):
    return {name: torch.from_numpy(array[:count]) for name, array in inputs.items()}


def opened(path, name, precision, folder):
    runtime = engine(name)
    plan = runtime.plan(load("cpu"), precision, runtime.affinity().version)
    folder.mkdir()
    runtime.build(path, plan, folder)
    return runtime.open(folder, plan)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_give_what_the_module_gives(kind, name, tmp_path):
    module, inputs = kind
    path = compress.export(module, tmp_path / "model.onnx", inputs)
    session = opened(path, name, "fp32", tmp_path / "engine")
    assert [spec.name for spec in session.inputs] == list(inputs), "the names of forward's parameters, in its order"
    with torch.no_grad():
        expected = call(module, as_tensors(inputs)).numpy()
    # the other way round: an engine is fed by name, not by place
    found = golden.run(session, {each: inputs[each] for each in reversed(inputs)})
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_ids_and_masks_stay_as_they_are_and_floats_get_ranges(kind, tmp_path):
    module, inputs = kind
    path = compress.export(compress.quantize(module, inputs), tmp_path / "model.onnx", inputs)
    model = onnx.load(path)
    types = {given.name: given.type.tensor_type.elem_type for given in model.graph.input}
    assert [onnx.helper.tensor_dtype_to_np_dtype(types[name]) for name in inputs] == [a.dtype for a in inputs.values()]
    placed = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert placed & set(inputs) == {name for name, array in inputs.items() if array.dtype == np.float32}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = call(module, as_tensors(inputs)).numpy()
    found = session.run(None, inputs)[0]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_pruned_one_is_narrower_and_runs(kind):
    module, inputs = kind
    narrow = compress.prune(module, inputs, ratio=0.4)
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in module.parameters())
    assert call(narrow, as_tensors(inputs, 3)).shape == call(module, as_tensors(inputs, 3)).shape


@pytest.mark.slow
def test_a_whole_run_and_what_it_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    splits = compress.split_arrays({"train": texts(320)}, validation=0.2, test=0.2, calibration=32)
    report = compress.run(
        teacher={"model": "tests.several_inputs:text", "epochs": 2, "learning_rate": 0.01, "optimizer": "adamw"},
        data=splits,
        stages=[compress.Quantize(epochs=0)],
        accuracy_drop_points=30.0,
        measure={"seconds": 0.05, "gate_seconds": 0.05},
        name="text",
        out=tmp_path / "run",
    )
    assert {row.engine for row in report.rows} == {"openvino", "onnxruntime"}
    assert all(row.parity.cosine > 0.99 for row in report.rows)
    again = measure_rows_again(tmp_path / "run", tmp_path / "steps", StreamProgress(io.StringIO()), quiet_seconds=0)
    assert [row.name for row in again.rows] == [row.name for row in report.rows], "timed on the bundle's own inputs"
    student = compress.load(tmp_path / "run", trust=True)
    assert student(**as_tensors(texts(3)[0])).shape == (3, 3)
    arrays = np.load(tmp_path / "run/bundle/golden.npz")
    assert {name for name in arrays.files if name.startswith("input")} == {"input.input_ids", "input.attention_mask"}
    assert json.loads((tmp_path / "run/model" / PLAN).read_text())["factory"] == "tests.several_inputs:text"


def test_replay_of_a_quantised_one_is_bit_equal():
    """The shapes and types of all inputs are in the plan, so that it can be captured anew."""
    module, (inputs, labels) = text().eval(), texts(16)
    model = to_onnx(capture(module, as_tensors(inputs, 2)))
    made = calibrate(model, NamedSamples(inputs, labels), "x86-vnni", "minmax")
    plan = Plan(factory="tests.several_inputs:text").followed_by(made)
    (read,) = Plan.from_json(json.loads(json.dumps(plan.as_json(), sort_keys=True))).operations
    assert read.input_shape == {"input_ids": InputShape((12,), "int64"), "attention_mask": InputShape((12,), "int64")}
    with torch.no_grad():
        first, second = (call(each.apply(text().eval()).eval(), as_tensors(inputs)) for each in (made, read))
    assert torch.equal(first, second)


def test_names_that_do_not_fit_are_told_on_both_sides():
    images, labels = pairs(8)
    with pytest.raises(UserError) as told:
        compress.quantize(pair(), {"left": images["left"], "middle": images["right"]})
    assert str(told.value).splitlines() == [
        "Pair needs right, which the data does not give; the data has left, middle",
        "Pair does not take middle, which the data gives; it takes left, right",
    ]
    with pytest.raises(UserError) as told:
        NamedSamples({"left": images["left"][:4], "a b": images["right"], "third": labels.astype("U1")}, labels)
    assert str(told.value).splitlines() == [
        "data: input left has 4 samples, and there are 8 labels",
        "data: inputs are named as the parameters of the model's forward; given: 'a b'",
        "data: input third is an array (samples, ...) of float32, float64, int32, int64, bool; given: <U1 (8,)",
    ]


def test_an_onnx_file_says_which_inputs_it_takes(tmp_path):
    images, _ = pairs(4)
    path = compress.export(pair(), tmp_path / "pair.onnx", images)
    model = from_onnx.read(path)
    assert from_onnx.input_faults(model, images) == []
    assert from_onnx.input_faults(model, images["left"]) == [
        "the model has inputs left, right; one array without a name is given"
    ]
    wrong = {"left": images["left"][:, :, :4], "right": images["right"].astype(np.float64)}
    assert from_onnx.input_faults(model, wrong) == [
        "input left takes samples of shape (1, 8, 8); the data's are (1, 4, 8)",
        "input right takes float32; the data gives float64; export it with an input of that type",
    ]


def test_golden_samples_of_other_names_are_refused(tmp_path):
    images, _ = pairs(4)
    session = opened(compress.export(pair(), tmp_path / "pair.onnx", images), "onnxruntime", "fp32", tmp_path / "engine")
    outputs = golden.run(session, images)
    np.savez(tmp_path / "golden.npz", **golden.pack(images, outputs))
    assert golden.check(session, tmp_path / "golden.npz").cosine == pytest.approx(1.0)
    np.savez(tmp_path / "other.npz", **golden.pack({"left": images["left"], "wrong": images["right"]}, outputs))
    with pytest.raises(ValueError, match="the model needs right; it does not take wrong"):
        golden.check(session, tmp_path / "other.npz")
    np.savez(tmp_path / "both.npz", input=images["left"], **golden.pack(images, outputs))
    with pytest.raises(ValueError, match="holds no samples with their outputs"):
        golden.check(session, tmp_path / "both.npz")


def test_ids_that_the_model_has_no_row_for_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    inputs, labels = texts(60)
    inputs["input_ids"][-1, -1] = 51  # the model knows 50
    splits = compress.split_arrays(dict.fromkeys(("train", "validation", "test"), (inputs, labels)), calibration=8)
    with pytest.raises(UserError) as told:
        compress.run(teacher="tests.several_inputs:text", data=splits, out=tmp_path / "run")
    assert (
        "does not take all ids of the data, input_ids from 0 to 51, attention_mask from 0 to 1: index out of range"
        in str(told.value)
    )
    assert "is the tokenizer the model's?" in str(told.value)


def test_a_boolean_mask_and_a_table_of_one_reach_the_engines(tmp_path):
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(16, 16)

        def forward(self, values, mask=None):
            return self.layer(values if mask is None else values.masked_fill(~mask, 0.0))

    random = np.random.default_rng(0)
    one = {"values": random.normal(size=(20, 16)).astype(np.float32)}
    both = {**one, "mask": random.random((20, 16)) < 0.5}
    for number, inputs in enumerate((one, both)):
        path = compress.export(compress.quantize(Masked(), inputs), tmp_path / f"{number}.onnx", inputs)
        session = opened(path, "onnxruntime", "int8", tmp_path / str(number))
        assert {spec.name: spec.dtype for spec in session.inputs} == {n: str(a.dtype) for n, a in inputs.items()}
        assert golden.run(session, inputs)[0].shape == (20, 16)


@pytest.mark.parametrize("wrong", [{}, {"file": 5}, {"output_1": 5}, {"x": 4}, {"x": 5, "x_scale": 5}])
def test_tables_that_will_not_do_are_told_where_they_are_given(wrong):
    inputs = {name: np.zeros((count, 2), np.float32) for name, count in wrong.items()}
    with pytest.raises(UserError):
        compress.split_arrays({"train": (inputs, np.zeros(5, np.int64))})


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"train": ({"x": np.full((5, 2), 1e300)}, np.zeros(5, int))}, "numbers beyond those of float32"),
        ({"train": ({"x": [[1], [1, 2]]}, np.zeros(2, int))}, "arrays of one shape a sample"),
        ({"train": (np.zeros((50, 2), np.float32), np.array([0, 10**12] * 25))}, "the largest is 1000000000000"),
        (
            {
                "train": ({"x": np.zeros((50, 3))}, np.arange(50) % 2),
                "test": (np.zeros((9, 3), np.float32), np.arange(9) % 2),
            },
            "the inputs of test are (3,); those of train are x float64 (3,)",
        ),
    ],
)
def test_data_that_will_not_do_is_told_where_it_is_given(parts, told):
    with pytest.raises(UserError) as error:
        compress.split_arrays(parts)
    assert told in str(error.value)


def test_inputs_by_stars_alone_and_a_single_sample_are_told(tmp_path):
    class Starred(torch.nn.Module):
        def forward(self, **inputs):
            return inputs["x"] * 2

    with pytest.raises(UserError, match=r"takes x by \*\* alone, which is not exported"):
        compress.quantize(Starred(), {"x": np.zeros((4, 3), np.float32)})
    with pytest.raises(UserError, match="two samples or more are needed"):
        compress.export(pair(), tmp_path / "p.onnx", {name: array[:1] for name, array in pairs(4)[0].items()})
