"""Every example recipe is one, with all its options known."""

import io
from dataclasses import replace

import pytest

from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import load
from profiles.device import load as load_profile
from tests.conftest import ROOT, count_parameters

RECIPES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_example_is_a_recipe(path, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    assert load(str(path)).name == path.stem


def test_the_recovery_example_trains_on_its_set_alone(tmp_path):
    """As it is, but for shorter trainings."""
    recipe = load(str(ROOT / "examples" / "recovery.toml"))
    prune = replace(recipe.stages[0], epochs=1)
    recipe = replace(recipe, teacher=replace(recipe.teacher, epochs=1), stages=(prune,))
    quiet = StreamProgress(io.StringIO())
    builder = ModelBuilder(recipe, load_profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
    builder.check()
    teacher = builder.teacher()
    builder.choose_calibration(teacher)
    assert (len(builder.data.train), len(builder.data.calibration)) == (50, 50)
    assert "recovery set random: 50 inputs for 50 samples" in builder.recovery.notes[0]
    made = builder.attempt(prune, builder.student(teacher, recipe.student), teacher)
    assert count_parameters(made.artifact.module) < count_parameters(teacher.artifact.module)
