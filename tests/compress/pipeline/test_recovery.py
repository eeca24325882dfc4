"""What stages train on where a recipe has a recovery set: that set, and nothing else of the training split."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from compress.data.base import ArraySamples, Splits
from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.methods.condensation.base import SetSource
from compress.methods.condensation.making import identity, misfits
from compress.methods.condensation.stored import load as load_set
from compress.methods.condensation.stored_samples import StoredSamples
from compress.pipeline.bundle import _extras
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.recovery import preflight_faults
from compress.pipeline.run import run
from compress.recipe.parse import parse
from deploy.devices import device
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.conftest import blob_splits, blobs

MODEL = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "width": 0.5, "in_channels": 1, "classes": 4}}
SHORT = {"seconds": 0.05, "gate_seconds": 0.05}
STAGE = {"use": "distill", "epochs": 1, "batch_size": 8, "losses": ["kd"]}


def site() -> Splits:
    """Pictures without labels; a recipe names it as ``tests.compress.pipeline.test_recovery:site``."""
    return replace(blob_splits(5), train=ArraySamples(blobs(12, 9).images, np.full(12, -1)))


def recipe(recovery, seed=0, **tables):
    table = {
        "task": {"data": "tests.conftest:blob_splits"},
        "teacher": {**MODEL, "epochs": 1},
        "stage": [STAGE],
        "seed": seed,
    }
    return parse({**table, "recovery": recovery, **tables}, name="x", source="x.toml")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def built(asked, steps, said=None):
    progress = StreamProgress(said or io.StringIO())
    builder = ModelBuilder(asked, load_profile("cpu"), StepCache(steps, progress), progress)
    builder.check()
    return builder, builder.teacher()


def test_stages_train_and_are_calibrated_on_the_set_alone(steps):
    said = io.StringIO()
    builder, teacher = built(recipe({"set": {"use": "subset", "per_class": 3}}), steps, said)
    builder.choose_calibration(teacher)
    train, calibration = builder.data.train, builder.data.calibration
    assert (len(train), len(calibration)) == (12, 12)
    assert np.bincount(train.load(np.arange(12)).targets).tolist() == [3, 3, 3, 3]
    assert np.array_equal(calibration.load(np.arange(12)).inputs, train.load(np.arange(12)).inputs)
    assert builder.recovery.file.stat().st_size == sum(load_set(builder.recovery.file).size_by_part().values())
    assert f"{builder.recovery.file.stat().st_size:,} bytes" in said.getvalue()
    assert "recovery set subset: 12 inputs for 12 samples" in builder.recovery.notes[0]
    assert builder.attempt(builder.recipe.stages[0], builder.student(teacher, builder.recipe.student), teacher).changed


def test_the_set_is_made_once_and_anew_for_another_seed_or_setting(steps):
    tables = [({"per_class": 3}, 0), ({"per_class": 3}, 0), ({"per_class": 3}, 1), ({"per_class": 4}, 0)]
    folders = []
    for table, seed in tables:
        builder, teacher = built(recipe({"set": {"use": "random", **table}}, seed), steps)
        builder.choose_recovery(teacher)
        folders.append(builder.recovery.file.parent.name)
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_an_attempts_key_tells_the_set(steps, monkeypatch):
    keys = []
    for recovery in (None, {"set": {"use": "random", "per_class": 3}}, {"set": {"use": "random", "per_class": 4}}):
        asked = recipe(recovery) if recovery else replace(recipe({"set": {"use": "random", "per_class": 3}}), recovery=None)
        builder, teacher = built(asked, steps)
        builder.choose_calibration(teacher)
        keys.append(builder.attempt(asked.stages[0], teacher, teacher).step.key)
    assert len(set(keys)) == 3


@pytest.mark.parametrize(("labels", "loss"), [("quantised", "kd"), ("two", "dbr")])
def test_stored_answers_are_learned_from_and_the_teacher_is_not_asked(steps, monkeypatch, labels, loss):
    given = {"set": {"use": "random", "per_class": 3, "labels": labels}, "answers": "stored"}
    asked = recipe(given, stage=[{**STAGE, "losses": [loss]}])
    builder, teacher = built(asked, steps)
    builder.choose_calibration(teacher)
    from compress.methods.distillation.objective import Objective

    def fail(self, *given):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(Objective, "teacher_signals", fail)
    assert builder.attempt(asked.stages[0], builder.student(teacher, asked.student), teacher).changed


def test_pictures_of_the_site_are_mixed_in(steps):
    beside = {"unlabelled": "tests.compress.pipeline.test_recovery:site", "share": 0.5}
    builder, teacher = built(recipe({"set": {"use": "random", "per_class": 2}, **beside}), steps)
    builder.choose_recovery(teacher)
    targets = builder.data.train.load(np.arange(24)).targets
    assert (len(targets), int((targets == -1).sum())) == (24, 12)
    assert builder.recovery.notes[-1] == "an epoch is 24 samples, 12 of them unlabelled pictures"
    assert builder.attempt(builder.recipe.stages[0], teacher, teacher).changed
    builder, teacher = built(recipe(beside), steps)  # beside the training split itself
    builder.choose_recovery(teacher)
    assert len(builder.data.train) == 256


def test_a_file_is_taken_for_its_teacher_and_task_alone(steps, tmp_path):
    builder, teacher = built(recipe({"set": {"use": "random", "per_class": 3}}), steps)
    builder.choose_recovery(teacher)
    path = tmp_path / "set.npz"
    path.write_bytes(builder.recovery.file.read_bytes())
    given = {"set": {"use": "file", "path": str(path)}}
    again, same = built(recipe(given), steps)
    again.choose_recovery(same)
    assert again.data.train.fingerprint() == builder.data.train.fingerprint()
    other, another = built(recipe(given, teacher={**MODEL, "epochs": 2}), steps)
    with pytest.raises(UserError, match="not made for this run: teacher") as caught:
        other.choose_recovery(another)
    assert len(caught.value.faults) == 1
    ten = recipe(given, task={"data": {"use": "digits", "size": 8}})
    quiet = StreamProgress(io.StringIO())
    shared = ModelBuilder(ten, load_profile("cpu"), StepCache(steps, quiet), quiet)._shared
    (fault,) = preflight_faults(shared, same.artifact.module)
    assert "shape of an input (1x16x16, here 1x8x8)" in fault


def test_a_set_of_another_normalisation_is_not_taken():
    """Its bytes would be normalised by its own mean, its soft labels are of that, and the student is judged by another."""
    splits = replace(blob_splits(5), preprocessing={"mean": [0.5], "deviation": [0.25], "order": "grey"})
    source = SetSource(
        samples=splits.train, classes=splits.classes, preprocessing=splits.preprocessing, task=None,
        teacher=nn.Identity(), teachers=(), example=None, seed=0, progress=None,
    )  # fmt: skip
    first = splits.train.load(np.arange(1)).inputs
    facts = json.loads(json.dumps(identity(source, "classification", first)))
    assert misfits(facts, identity(source, "classification", first), "set") == []
    other = replace(source, preprocessing={**splits.preprocessing, "mean": [0.25]})
    (fault,) = misfits(facts, identity(other, "classification", first), "set")
    assert "normalisation (0.5, 0.25, rgb, 1.0, here 0.25, 0.25, rgb, 1.0)" in fault


def test_what_cannot_be_made_is_told_before_anything_is_trained(steps, tmp_path):
    with pytest.raises(UserError, match="50 of each class are asked for"):
        built(recipe({"set": {"use": "random", "per_class": 50}}), steps)
    with pytest.raises(UserError, match="no such file; `compress condense` makes one"):
        built(recipe({"set": {"use": "file", "path": str(tmp_path / "none.npz")}}), steps)


@pytest.mark.parametrize(
    ("recovery", "words"),
    [
        ({"set": {"use": "subset"}}, "has one size: per_class, samples or size_mib; given: none"),
        ({"set": {"use": "random", "per_class": 3, "samples": 4}}, "given: per_class, samples"),
        ({"set": {"use": "subst", "per_class": 3}}, "unknown set 'subst' (did you mean 'subset'?)"),
        ({"set": {"use": "random", "per_class": 0}}, "per_class: Input should be greater than or equal to 1"),
        ({"share": 0.5}, "share and unlabelled go together"),
        ({}, 'set is missing; for example set = { use = "random", per_class = 50 }'),
        ({"set": {"use": "random", "per_class": 3, "labels": "none"}, "answers": "stored"}, "do not go together"),
        ({"set": {"use": "random", "per_class": 3, "labels": "two"}, "answers": "stored"}, "'two' stores distances"),
    ],
)
def test_faults_of_the_table_are_told_in_one_line(recovery, words):
    with pytest.raises(UserError) as caught:
        recipe(recovery)
    assert any(words in fault for fault in caught.value.faults)


def test_losses_that_look_inside_do_not_go_with_stored_answers():
    with pytest.raises(UserError, match="its loss 'cwd' reads teacher_features, and answers = 'stored'"):
        recipe({"set": {"use": "random", "per_class": 3}, "answers": "stored"}, stage=[{"use": "prune", "losses": ["cwd"]}])


@pytest.mark.parametrize(("bundled", "names"), [(True, ["recovery.npz"]), (False, [])])
def test_the_bundle_carries_the_set_where_that_is_asked(steps, bundled, names):
    builder, teacher = built(recipe({"set": {"use": "random", "per_class": 3}, "bundle": bundled}), steps)
    builder.choose_recovery(teacher)
    assert [*_extras(builder)] == names
    assert all(path.read_bytes() == builder.recovery.file.read_bytes() for path in _extras(builder).values())


@pytest.mark.slow
def test_a_whole_run_tells_the_sets_bytes_and_bundles_it(tmp_path, quiet):
    asked = recipe({"set": {"use": "subset", "per_class": 8}, "bundle": True}, stage=[], measure=SHORT)
    report = run(asked, load_profile("cpu"), device("local"), tmp_path / "out", tmp_path / "steps", quiet)
    assert "recovery set subset: 32 inputs for 32 samples, soft labels quantised" in report.notes[0]
    assert report.as_json()["recipe"]["recovery"]["set"]["use"] == "subset"
    bundled = tmp_path / "out" / "bundle" / "recovery.npz"
    assert len(StoredSamples(load_set(bundled))) == 32
    assert "recovery.npz" in json.loads((tmp_path / "out" / "bundle" / "manifest.json").read_text())["files"]
