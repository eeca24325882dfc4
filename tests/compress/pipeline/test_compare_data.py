"""compare-data: darker pictures differ from their own kind to a network's first layers; what cannot be told is said."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import save_file

from compress.execution.progress import StreamProgress
from compress.pipeline.compare_data import compare_data, scaled
from deploy.onnx_graph.features import feature_tensors, features
from profiles.errors import UserError
from tests.conftest import blobs, small_model
from tests.deploy.engines.small import IMAGES, small


def test_features_are_what_layers_read_averaged_over_places():
    tensors = feature_tensors(small())
    assert tensors == {"input": 1, "a2": 1, "sum": 1, "mean": -1}
    found = features(small(), [IMAGES[:10], IMAGES[10:]])
    assert [each.shape for each in found] == [(16, 3), (16, 8), (16, 8), (16, 8)]
    assert found[0] == pytest.approx(IMAGES.mean(axis=(2, 3)), abs=1e-6)


def test_each_depth_has_a_variance_of_1_over_both_sets():
    rng = np.random.default_rng(0)
    one, two = scaled([rng.normal(0, 9, (20, 3)), np.ones((20, 2))], [rng.normal(5, 9, (10, 3)), np.ones((10, 2))])
    assert one.shape == (20, 3), "a depth that never varies tells nothing"
    assert np.concatenate([one, two]).var(axis=0).sum() == pytest.approx(1)


@pytest.fixture
def sets(tmp_path):
    """Images of normal noise, others of the same kind, others half as bright, and a few."""
    onnx.save(small(), tmp_path / "small.onnx")
    rng = np.random.default_rng(2)
    for name, count, factor in (("lab", 60, 1.0), ("other", 60, 1.0), ("dark", 60, 0.5), ("few", 2, 0.5)):
        images = (factor * rng.normal(size=(count, 3, 8, 8)) + factor).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 2)
    return tmp_path


def test_alike_differ_and_cannot_tell(sets, compress_here):
    asked = ("--model", "small.onnx", "--json", "--draws", "199")
    alike = compress_here("compare-data", "lab.npz", "other.npz", *asked)
    assert alike.returncode == 0 and json.loads(alike.stdout)["answer"] == "alike"
    differ = compress_here("compare-data", "lab.npz", "dark.npz", *asked)
    found = json.loads(differ.stdout)
    assert differ.returncode == 1 and found["answer"] == "differ" and found["difference"]["p"] == 1 / 200
    assert [each["counts"] for each in found["classes"]] == [[30, 30], [30, 30]] and found["classes"][0]["p"] < 0.05
    assert len(found["of_b"]) == 5 and found["of_b"][0]["unlikeness"] > found["of_b"][4]["unlikeness"]
    few = compress_here("compare-data", "few.npz", "few.npz", *asked)
    assert few.returncode == 3 and json.loads(few.stdout)["answer"] == "cannot tell", "6 relabellings reach no 0.01"


def test_what_will_not_do_is_told_in_one_line(sets, compress_here):
    np.savez(sets / "blobs.npz", images=blobs(8).images)
    for words, given in (
        ("name a model (--model)", ("lab.npz", "dark.npz")),
        ("blobs.npz does not fit small.onnx", ("blobs.npz", "lab.npz", "--model", "small.onnx")),
        ("no such folder or .npz file", ("nothing", "lab.npz", "--model", "small.onnx")),
        ("how the model's pictures are prepared is not stated", (".", "lab.npz", "--model", "small.onnx")),
        ("did you mean 'test'", ("digits:tests", "lab.npz", "--model", "small.onnx")),
    ):
        done = compress_here("compare-data", *given)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr


def test_a_recipe_s_splits_by_its_teacher(sets, compress_here):
    """The teacher is a file, so that nothing is trained."""
    (sets / "noise.toml").write_text('[task]\ndata = { use = "npz", path = "lab.npz" }\n[teacher]\nmodel = "small.onnx"\n')
    done = compress_here("compare-data", "noise.toml", "dark.npz", "--json", "--draws", "199")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["a"] == "noise.toml:calibration" and found["model"] == "the teacher of noise.toml"
    assert compress_here("compare-data", "noise.toml", "noise.toml:validation").returncode in (0, 3)


def test_a_recipe_s_calibration_samples_are_those_that_a_run_takes(monkeypatch, tmp_path):
    """Of a recovery set and of ``select``: what ranges are taken from is compared, not the split behind it."""
    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    monkeypatch.chdir(tmp_path)
    save_file(small_model().state_dict(), "t.safetensors")
    teacher = '[teacher]\nmodel = "compress.models:resnet"\nweights = "t.safetensors"\n'
    arguments = "arguments = { blocks = 1, width = 0.5, in_channels = 1, classes = 4 }\n"
    given = '[task]\ndata = "tests.conftest:blob_splits"\n' + teacher + arguments
    of_a_set = '[recovery]\nset = { use = "random", per_class = 3 }\n[calibration]\nselect = "random"\nsamples = 9\n'
    Path("small.toml").write_text(given + of_a_set)
    found = compare_data("small.toml", "small.toml:train", draws=9, progress=StreamProgress(io.StringIO()))
    assert found.totals == (9, 12), "9 of the 12 that stages train on"
    found = compare_data("small.toml:validation", "small.toml:test", draws=9, progress=StreamProgress(io.StringIO()))
    assert found.totals == (64, 64)
    Path("untrained.toml").write_text(Path("small.toml").read_text().replace('weights = "t.safetensors"', "epochs = 1"))
    with pytest.raises(
        UserError, match="the teacher of untrained.toml.*a comparison trains nothing; run it first, or name a model"
    ) as caught:
        compare_data("untrained.toml", "small.toml", progress=StreamProgress(io.StringIO()))
    assert len(caught.value.faults) == 1
