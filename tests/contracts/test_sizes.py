"""Models of several sizes: an engine each, samples go to the smallest that holds them, from data to bundle."""

import io
import json

import numpy as np
import onnx
import pytest
import torch

import compress
from compress.data.base import NamedSamples
from compress.data.sized import SizedSamples, as_long_as_its_longest, mix
from compress.execution.progress import StreamProgress
from compress.methods.quantization.post_training import calibrate
from compress.models.plan import Plan
from compress.pipeline.remeasure import measure_rows_again
from compress.pipeline.sized_models import module_at
from compress.stages.base import Artifact
from deploy.bundle import bundle as bundles
from deploy.engines.serving import Sizes, load
from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError
from tests.several_inputs import text
from tests.sized import long_texts

AXES = {"input_ids": 1, "attention_mask": 1}
SIZES = Sizes(name="length", sizes=(12, 24, 48), axes=AXES, mask="attention_mask")


def splits(count=300, width=48):
    return compress.split_arrays({"train": long_texts(count, width=width)}, validation=0.2, test=0.2, calibration=32)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))


QUICK = {"measure": {"seconds": 0.05, "gate_seconds": 0.05}, "accuracy_drop_points": 40.0}


@pytest.mark.slow
def test_a_whole_run_ships_an_engine_a_size(tmp_path, steps):
    report = compress.run(
        teacher={"model": "tests.several_inputs:text", "epochs": 1, "learning_rate": 0.01, "optimizer": "adamw"},
        data=splits(),
        sizes={"length": [48, 12]},
        engines=["onnxruntime"],
        out=tmp_path / "run",
        **QUICK,
    )
    assert [row.precision for row in report.rows] == ["fp32", "int8"]
    assert all(row.parity.cosine > 0.99 for row in report.rows)
    for row in report.rows:
        assert [each.size for each in row.sizes] == [12, 48]
        assert sum(each.share for each in row.sizes) == pytest.approx(1.0)
        assert row.p50 == pytest.approx(sum(each.share * each.p50_ms for each in row.sizes)), "weighted by validation's mix"
    assert "size 12" in str(report)
    again = measure_rows_again(tmp_path / "run", tmp_path / "steps", StreamProgress(io.StringIO()), quiet_seconds=0)
    assert [[each.size for each in row.sizes] for row in again.rows] == [[12, 48], [12, 48]]
    folder = tmp_path / "run/bundle"
    assert load(folder).sizes.sizes == (12, 48)
    check = bundles.verify(folder)
    assert check.cosine > 0.999 and check.samples == 16
    inputs, _ = long_texts(8, seed=9)
    with bundles.opened(folder) as served:
        whole = next(iter(served.infer(inputs).values()))
        short = {name: array[:1, :10] for name, array in inputs.items()}  # a request of its own length, 10
        (single,) = served.infer(short).values()
        assert whole.shape == (8, 3) and single.shape == (1, 3)
        assert served.sessions[12].inputs[0].shape == (1, 12)
        long = {name: np.ones((1, 60), np.int64) for name in inputs}
        with pytest.raises(ValueError, match="a sample has length 60; the largest size with an engine is 48"):
            served.infer(long)


@pytest.mark.slow
def test_one_trained_in_int8_has_the_same_integers_at_each_size():
    module, (inputs, labels) = text().eval(), long_texts(32)
    model = to_onnx(capture(module, {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}))
    made = calibrate(model, NamedSamples(inputs, labels), "x86-vnni", "minmax")
    artifact = Artifact(plan=Plan(factory="tests.several_inputs:text").followed_by(made), module=made.apply(module).eval())
    small = module_at(artifact, SIZES, 12)
    few = NamedSamples(inputs, labels).load(np.flatnonzero(inputs["attention_mask"].sum(axis=1) <= 12)).inputs
    with torch.no_grad():
        whole = artifact.module(**{name: torch.from_numpy(array) for name, array in few.items()})
        cut = small(**{name: torch.from_numpy(array) for name, array in SIZES.at(few, 12).items()})
    assert torch.allclose(whole, cut, atol=1e-3), "the mask hides what fills up"
    assert small.scales().activations == artifact.module.scales().activations


@pytest.mark.slow
def test_a_file_with_free_sizes_is_taken_by_their_names(tmp_path, steps):
    inputs, _ = long_texts(4)
    batch, words = torch.export.Dim("batch"), torch.export.Dim("words", max=64)
    example = {name: torch.from_numpy(array) for name, array in inputs.items()}
    shapes = {name: {0: batch, 1: words} for name in inputs}
    program = torch.onnx.export(text().eval(), kwargs=example, dynamic_shapes=shapes, dynamo=True, verbose=False)
    program.save(tmp_path / "m.onnx")
    free = onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[1].dim_param
    assert free
    given = {"teacher": {"model": str(tmp_path / "m.onnx")}, "data": splits(100), "out": tmp_path / "run", **QUICK}
    given["engines"] = ["onnxruntime"]
    report = compress.run(sizes={free: [16, 48]}, **given)
    assert all(row.parity.cosine > 0.98 and [each.size for each in row.sizes] == [16, 48] for row in report.rows)
    assert bundles.verify(tmp_path / "run/bundle").cosine > 0.999
    with pytest.raises(UserError, match=rf"\[input\]: unknown free size 'length'|unknown free size 'length'.*{free}"):
        compress.run(sizes={"length": 48}, **given)


def test_samples_go_to_the_smallest_that_holds_them():
    inputs, labels = long_texts(50)
    lengths = inputs["attention_mask"].sum(axis=1)
    assert SIZES.lengths(inputs).tolist() == lengths.tolist()
    wanted = [12 if n <= 12 else 24 if n <= 24 else 48 for n in lengths]
    assert SIZES.fitting(inputs).tolist() == wanted
    samples = NamedSamples(inputs, labels)
    assert mix(samples, SIZES) == {size: wanted.count(size) / 50 for size in (12, 24, 48)}
    seen = []

    def run(size, taken):
        seen.append((size, len(taken["input_ids"])))
        assert taken["input_ids"].shape[1] == taken["attention_mask"].shape[1] == size
        return [taken["input_ids"].sum(axis=1)]

    (sums,) = SIZES.route(inputs, run)
    assert sums.tolist() == inputs["input_ids"].sum(axis=1).tolist(), "in the samples' own order"
    assert seen == [(size, wanted.count(size)) for size in (12, 24, 48)]


def test_outputs_of_each_place_come_back_at_the_inputs_own_size():
    sizes = Sizes(name="length", sizes=(4, 8), axes={"input": 1}, outputs=(1, 0))
    inputs = np.array([[5, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]], np.float32)
    doubled, sums = sizes.route(inputs, lambda size, taken: [2 * taken, taken.sum(axis=1)])
    assert doubled.tolist() == (2 * inputs).tolist() and sums.tolist() == [10.0, 15.0]


def test_a_training_batch_is_as_long_as_its_longest():
    inputs, labels = long_texts(50)
    batch = NamedSamples(inputs, labels).load(np.flatnonzero(inputs["attention_mask"].sum(axis=1) <= 20))
    cut = as_long_as_its_longest(batch, SIZES)
    assert cut.inputs["input_ids"].shape[1] == 24 and cut.targets.tolist() == batch.targets.tolist()
    tags = NamedSamples(inputs, np.where(inputs["attention_mask"] > 0, inputs["input_ids"] % 3, -1))
    longer = SizedSamples(tags, Sizes(name="length", sizes=(64,), axes=AXES, mask="attention_mask")).load(np.arange(3))
    assert longer.targets.shape == (3, 64) and (longer.targets[:, 48:] == -1).all()


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"length": [12, 24]}, "of 60 samples of test are longer than 24"),
        ({"length": {"sizes": [12, 48], "inputs": ["ids"]}}, "unknown input 'ids'"),
        ({"length": {"sizes": [12, 48], "fill": {"other": 1}}}, "unknown input 'other'"),
        ({"length": []}, r"\[input\] length sizes"),
        ({"length": [12, 12]}, "a size stands there twice"),
        ({"length": "long"}, "is a size, a list of sizes, or a table with sizes"),
        ({"length": [12, 48], "width": [2, 4]}, "length and width have several sizes each"),
    ],
)
def test_sizes_that_will_not_do_are_told_in_a_line(tmp_path, steps, sizes, told):
    with pytest.raises(UserError, match=told) as error:
        compress.run(teacher={"model": "tests.several_inputs:text"}, data=splits(), sizes=sizes, out=tmp_path / "run")
    assert len(str(error.value).splitlines()) <= 4


def test_an_axis_that_the_data_does_not_tell_is_asked_for(tmp_path, steps):
    images = np.random.default_rng(0).normal(size=(60, 1, 20, 30)).astype(np.float32)
    data = compress.split_arrays({"train": (images, np.arange(60) % 2)}, validation=0.3, test=0.3, calibration=8)
    with pytest.raises(UserError, match=r"\[input\] time: which axis has it\? inputs are \(2, 1, 20, 30\); write time = "):
        compress.run(teacher={"model": "compress.models:resnet"}, data=data, sizes={"time": [10, 40]}, out=tmp_path / "run")


def test_damaged_serving_files_are_refused(tmp_path):
    for content in ("[]", "{", json.dumps({"sizes": {"name": "n", "sizes": [2, 1], "axes": {"a": 1}, "outputs": []}})):
        (tmp_path / "serving.json").write_text(content)
        with pytest.raises(ValueError, match="serving.json is damaged"):
            load(tmp_path)
