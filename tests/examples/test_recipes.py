"""Every example recipe is one, with all its options known."""

import pytest

from compress.recipe.parse import load
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_example_is_a_recipe(path, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    assert load(str(path)).name == path.stem
