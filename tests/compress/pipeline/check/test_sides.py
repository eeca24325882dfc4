"""What a check takes: bundles, and what is none."""

import json
from contextlib import ExitStack

import pytest

from compress.pipeline.check import sides
from compress.pipeline.check.accuracy import compare_golden
from compress.pipeline.check.labelled import of_recipe, of_runs
from compress.pipeline.check.sides import Side, open_side
from compress.pipeline.derived_bundle import place_of
from compress.pipeline.target import resolve, runtime_versions
from compress.recipe.parse import load
from deploy.worker.client import RemoteWorker
from profiles.errors import UserError
from tests.deploy.bundles import bundle, model


@pytest.fixture
def target():
    return resolve("cpu")


def read(path, target, **options):
    with ExitStack() as stack:
        return open_side(path, target.profile, runtime_versions(target.device), stack, **options)


def test_a_bundle_is_compared_by_its_golden_samples(tmp_path, target):
    bundle(tmp_path / "one")
    side = read(tmp_path / "one", target)
    assert side.folder == tmp_path / "one" and side.model.is_file() and side.plan.engine == "onnxruntime"
    bundle(tmp_path / "other", seed=1)
    for name in ("one", "other"):
        with RemoteWorker(target.device) as worker:
            worker.build(read(tmp_path / name, target).model, side.plan, tmp_path / f"built-{name}")
    same, differs = (
        compare_golden(tmp_path / "one", tmp_path / f"built-{name}", target.device, "fp32", 0.5) for name in ("one", "other")
    )
    assert same.answer == "fine" and "have no labels" in same.compared
    assert differs.answer == "cannot tell" and "--recipe" in differs.needed


def test_an_onnx_file_goes_to_the_first_engine_that_runs_it(tmp_path, target):
    import onnx

    onnx.save(model(), str(tmp_path / "m.onnx"))
    side = read(tmp_path / "m.onnx", target)
    assert (side.plan.engine, side.plan.precision, side.name) == (target.profile.runtimes[0].engine, "fp32", "m")
    assert read(tmp_path / "m.onnx", target, only="onnxruntime").plan.engine == "onnxruntime"
    with pytest.raises(UserError, match="name another with --precision"):
        read(tmp_path / "m.onnx", target, precision="int3")
    with pytest.raises(UserError, match="onnxruntime"):
        read(tmp_path / "m.onnx", target, only="onnxrumtime")


def test_a_folder_without_a_bundle_is_refused(tmp_path, target):
    with pytest.raises(UserError, match="neither a bundle nor a run"):
        read(tmp_path, target)


def test_a_runs_own_samples_are_taken_where_no_code_of_others_is_named(tmp_path):
    told = load("digits").as_json()

    def side(recipe):
        return Side(given="run", name="run", plan=None, model=tmp_path, recipe=recipe)

    task, data = of_runs([side(None), side(told)])
    assert task.metric == "top1" and len(data.test) > 300
    assert of_runs([side({**told, "data": {"use": "somebody:data"}}), None]) is None


def test_data_that_is_prepared_otherwise_judges_no_bundle(tmp_path):
    """Pictures normalised by other means, or classes in another order, would make the older model look worse."""
    recipe = tmp_path / "digits.toml"
    recipe.write_text('[teacher]\nmodel = "compress.models:resnet"\n[task]\nkind = "classification"\ndata = "digits"\n')
    preparation = dict(of_recipe(str(recipe))[1].preprocessing)
    told = load(str(recipe)).as_json()
    for differs in ({}, {"mean": [0.25]}, {"classes": ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]}):
        (tmp_path / "preprocessing.json").write_text(json.dumps({**preparation, **differs}))
        own = of_runs([Side(given="run", name="run", plan=None, model=tmp_path, recipe=told, folder=tmp_path)])
        if not differs:
            assert own is not None and of_recipe(str(recipe), [tmp_path, None])
            continue
        assert own is None
        with pytest.raises(UserError, match=f"{next(iter(differs))}: .*, in the bundle"):
            of_recipe(str(recipe), [tmp_path])


def test_a_bundle_that_takes_bytes_is_told(tmp_path, target, monkeypatch):
    bundle(tmp_path / "one")
    monkeypatch.setattr(
        sides,
        "read_preprocessing",
        lambda folder: {"bytes": True, "mean": [0.5], "deviation": [0.5], "order": "grey", "scale": 1.0},
    )
    with pytest.raises(UserError, match="takes pictures as bytes"):
        read(tmp_path / "one", target)


def test_a_new_bundle_goes_nowhere_that_holds_something_else(tmp_path):
    """Inside the bundle it would damage it; a folder with a file of the user's beside a bundle's is not replaced."""
    folder, other = tmp_path / "one", tmp_path / "two"
    bundle(folder)
    bundle(other)
    with pytest.raises(UserError, match="inside the bundle"):
        place_of(folder, folder / "sub", "classes")
    assert place_of(folder, other, "classes") == other
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not of its bundle \(notes.txt\)"):
        place_of(folder, other, "classes")
