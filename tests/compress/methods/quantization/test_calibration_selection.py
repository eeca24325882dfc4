"""A recipe chooses what ranges are taken from: some samples of the calibration split, or made ones."""

import io
from dataclasses import replace

import numpy as np
import pytest

from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.conftest import blob_splits

MODEL = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "width": 0.5, "in_channels": 1, "classes": 4}}


def recipe(**calibration):
    table = {"task": {"data": "tests.conftest:blob_splits"}, "teacher": {**MODEL, "epochs": 1}}
    return parse({**table, "calibration": calibration}, name="x", source="x.toml")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def shop_of(asked, steps, said=None):
    quiet = StreamProgress(said or io.StringIO())
    shop = ModelBuilder(asked, load_profile("cpu"), StepCache(steps, quiet), quiet)
    shop.choose_calibration(shop.teacher())
    return shop


@pytest.mark.parametrize("select", ["random", "balanced", "herding", "k_centre", "coverage", "entropy"])
def test_so_many_of_the_split_are_chosen_and_once(steps, select):
    said = io.StringIO()
    chosen = shop_of(recipe(select=select, samples=8), steps, said).data.calibration
    pool = blob_splits().calibration
    images = chosen.load(np.arange(len(chosen))).inputs
    assert len(chosen) == 8
    assert all(any(np.array_equal(image, held) for held in pool.images) for image in images)
    assert f"calibration: {select}, 8 samples" in said.getvalue()
    again = io.StringIO()
    assert shop_of(recipe(select=select, samples=8), steps, again).data.calibration.fingerprint() == chosen.fingerprint()
    assert "calibration:" not in again.getvalue()


def test_to_choose_again_is_to_choose_the_same(steps):
    shop = shop_of(recipe(select="random", samples=8), steps)
    first = shop.data.calibration.fingerprint()
    shop.choose_calibration(shop.teacher())
    assert shop.data.calibration.fingerprint() == first


def test_balanced_takes_as_many_of_each_class(steps):
    chosen = shop_of(recipe(select="balanced", samples=8), steps).data.calibration
    assert np.bincount(chosen.load(np.arange(8)).targets).tolist() == [2, 2, 2, 2]


def test_made_samples_are_of_the_models_inputs_and_nothing_else_is_touched(steps):
    plain, shop = shop_of(recipe(), steps), shop_of(recipe(select="synthesised", samples=4), steps)
    made = shop.data.calibration.load(np.arange(4)).inputs
    assert made.shape == (4, 1, 16, 16)
    assert np.isfinite(made).all()
    for split in ("train", "validation", "test"):
        assert getattr(shop.data, split).fingerprint() == getattr(plain.data, split).fingerprint()
    assert plain.data.calibration.fingerprint() == blob_splits().calibration.fingerprint()


def test_what_a_choice_needs_and_lacks_is_named(steps):
    shop = shop_of(recipe(), steps)
    unlabelled = replace(shop.data, calibration=replace_labels(shop.data.calibration))
    shop._pool, shop.recipe = unlabelled.calibration, recipe(select="balanced", samples=8)
    with pytest.raises(UserError, match=r"select = 'balanced' needs one class label for each sample"):
        shop.choose_calibration(shop.teacher())


def replace_labels(samples):
    changed = blob_splits().calibration
    changed.labels = np.full(len(samples), -1)
    return changed


def test_faults_in_a_recipe_are_named():
    assert recipe().calibration.select == "all"
    with pytest.raises(UserError, match="samples goes with a select other than 'all'"):
        recipe(samples=8)
    with pytest.raises(UserError, match="select"):
        recipe(select="best", samples=8)
