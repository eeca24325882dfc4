"""compress condense: a file that a recipe takes, and what is told where there is none to make."""

import pytest

from compress.execution.cache import StepCache
from compress.methods.condensation.stored import load
from compress.pipeline.condensing import condense
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import load as load_recipe
from profiles.device import load as load_profile
from profiles.errors import UserError

RECIPE = """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = { blocks = 1, width = 0.5, in_channels = 1, classes = 4 }
epochs = 1
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def recipe(monkeypatch, steps, tmp_path):
    monkeypatch.setenv("COMPRESS_STEPS", str(steps))
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_what_is_condensed_is_taken_by_a_recipe(recipe, compress_here, tmp_path, steps, quiet):
    done = compress_here(
        "condense", str(recipe), "--per-class", "3", "--use", "random", "--labels", "full", "--out", "a.npz"
    )
    assert done.returncode == 0, done.stderr
    size = (tmp_path / "a.npz").stat().st_size
    assert f"a.npz: recovery set random: 12 inputs for 12 samples, soft labels full; {size:,} bytes" in done.stdout
    assert load(tmp_path / "a.npz").facts["classes"] == ["a", "b", "c", "d"]
    recipe.write_text(recipe.read_text() + '[recovery]\nset = { use = "file", path = "a.npz" }\n')
    builder = ModelBuilder(load_recipe(str(recipe)), load_profile("cpu"), StepCache(steps, quiet), quiet)
    builder.check()
    builder.choose_recovery(builder.teacher())
    assert len(builder.data.train) == 12
    again = compress_here("condense", str(recipe), "--per-class", "3", "--out", "b.npz")
    assert again.returncode == 2
    assert "set is a file already" in again.stderr


def test_a_recipes_own_set_is_condensed_in_another_size(recipe, compress_here, tmp_path):
    recipe.write_text(recipe.read_text() + '[recovery]\nset = { use = "subset", per_class = 5, keep = "hard" }\n')
    assert compress_here("condense", str(recipe), "--samples", "8", "--out", "a.npz").returncode == 0
    made = load(tmp_path / "a.npz")
    assert (made.stored, made.facts["settings"]["keep"], made.facts["settings"]["per_class"]) == (8, "hard", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "how large? give --per-class, --samples or --size-mib, or a [recovery] set"),
        (["--per-class", "90"], "90 of each class are asked for"),
        (["--per-class", "3", "--samples", "3"], "has one size: per_class, samples or size_mib; given: per_class, samples"),
        (["--size-mib", "0.004"], "holds 0 inputs"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(recipe, compress_here, arguments, words):
    done = compress_here("condense", str(recipe), *arguments, "--out", "a.npz")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("error:") == 1


def test_a_folder_that_is_not_there_is_told(recipe, compress_here):
    done = compress_here("condense", str(recipe), "--per-class", "3", "--out", "no/where/a.npz")
    assert done.returncode == 2
    assert "no such folder; make it first" in done.stderr


@pytest.mark.parametrize("out", ["small.toml", "."])
def test_what_is_there_and_no_set_is_not_written_over(out, recipe, tmp_path, quiet):
    with pytest.raises(UserError, match="it is there and no recovery set"):
        condense(load_recipe(str(recipe)), {"per_class": 3}, tmp_path / out, quiet)
    assert recipe.read_text() == RECIPE
