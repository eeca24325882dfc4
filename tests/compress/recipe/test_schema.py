"""The published schema, by a validator of others: what it says wrong is wrong, and every recipe of ours is right by it."""

import functools
import json

import pytest

from compress.cli.main import entry
from compress.recipe import parse as recipe
from compress.recipe.schema import recipe_schema
from compress.stages import stages
from profiles import device
from profiles.errors import UserError
from profiles.schema import profile_schema
from profiles.toml import read_toml
from tests.conftest import ROOT
from tests.fuzz.mutations import generator, inputs, mutated_table, toml
from tests.fuzz.test_recipe_and_profile import PROFILE, RECIPE, SEARCHED

jsonschema = pytest.importorskip("jsonschema", reason="make install brings it")
RECIPES = [*sorted((ROOT / "examples").rglob("*.toml")), *sorted(recipe.FOLDER.glob("*.toml"))]


@functools.cache
def validator(of):
    schema = {"recipe": recipe_schema, "profile": profile_schema}[of]()
    kind = jsonschema.validators.validator_for(schema)
    assert kind is jsonschema.Draft7Validator
    kind.check_schema(schema)
    return kind(schema)


def is_valid(of, table):
    return validator(of).is_valid(json.loads(json.dumps(table, default=str)))


def is_read(of, table, folder):
    (folder / "x.toml").write_text(toml(table), encoding="utf-8")
    try:
        if of == "recipe":
            recipe.load(str(folder / "x.toml"))
        else:
            device.load(str(folder / "x.toml"))
    except UserError:
        return False
    return True


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_right(path):
    assert list(validator("recipe").iter_errors(read_toml(path))) == []


@pytest.mark.parametrize("name", device.names())
def test_every_profile_is_right(name):
    assert list(validator("profile").iter_errors(read_toml(device.FOLDER / f"{name}.toml"))) == []


GOOD = {
    "task": {"data": "digits"},
    "teacher": {"model": "compress.models:resnet20", "arguments": {"in_channels": 1}},
    "student": {"from": "teacher", "width": 0.5},
    "stage": [{"use": "prune", "ratio": 0.25, "losses": ["kd", {"use": "cwd", "weight": 3.0}]}],
}
WRONG = {
    "no data": ("task", {}),
    "unknown data": ("task", {"data": "digts"}),
    "a wrong option of data": ("task", {"data": {"use": "digits", "seeed": 1}}),
    "an option of data of another kind": ("task", {"data": {"use": "digits", "seed": "x"}}),
    "unknown task": ("task", {"data": "digits", "kind": "clasification"}),
    "a key that a table has not": ("teacher", {"model": "compress.models:resnet20", "epoch": 3}),
    "half a number": ("teacher", {"model": "compress.models:resnet20", "epochs": 3.5}),
    "text for a number": ("teacher", {"model": "compress.models:resnet20", "epochs": "3"}),
    "out of bounds": ("teacher", {"model": "compress.models:resnet20", "warmup": 1}),
    "no model": ("teacher", {"epochs": 3}),
    "weights without a file": ("teacher", {"model": "compress.models:resnet20", "weights": {"entry": "ema"}}),
    "neither from nor model": ("student", {"width": 0.5}),
    "both from and model": ("student", {"from": "teacher", "model": "compress.models:resnet20"}),
    "no teacher's": ("student", {"from": "nobody"}),
    "a search without choices": ("student", {"from": "teacher", "search": {"speed_up": 2}}),
    "a stage that is not": ("stage", [{"use": "prun"}]),
    "a stage without a name": ("stage", [{"ratio": 0.5}]),
    "a table for a list": ("stage", {"use": "prune"}),
    "a setting of another stage": ("stage", [{"use": "quantize", "ratio": 0.5}]),
    "a ratio out of bounds": ("stage", [{"use": "prune", "ratio": 1.5}]),
    "true for a number": ("stage", [{"use": "prune", "rounds": True}]),
    "no losses": ("stage", [{"use": "prune", "losses": []}]),
    "an unknown loss": ("stage", [{"use": "prune", "losses": ["kdd"]}]),
    "an unknown option of a loss": ("stage", [{"use": "prune", "losses": [{"use": "kd", "temperatur": 2}]}]),
    "a weight below 0": ("stage", [{"use": "prune", "losses": [{"use": "kd", "weight": -1}]}]),
    "an unknown weight": ("stage", [{"use": "prune", "losses": [{"use": "kd", "weight": {"use": "nothing"}}]}]),
    "layers that are no pairs": ("stage", [{"use": "prune", "losses": [{"use": "cwd", "layers": ["a"]}]}]),
    "a seed below 0": ("seed", -1),
    "an unknown tracker": ("trackers", ["tensorbord"]),
    "an unknown table": ("studnt", {}),
    "an unknown selection": ("calibration", {"select": "best"}),
}


@pytest.mark.parametrize(("key", "value"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_by_the_schema_is_told_by_the_parser(key, value, tmp_path):
    assert is_valid("recipe", GOOD) and is_read("recipe", GOOD, tmp_path)
    assert not is_valid("recipe", {**GOOD, key: value})
    assert not is_read("recipe", {**GOOD, key: value}, tmp_path)


PLAIN = {"runtime": [{"engine": "onnxruntime", "precisions": ["fp32"]}]}
WRONG_PROFILES = {
    "no runtime": {"runtime": []},
    "an unknown key": {**PLAIN, "thread": 1},
    "threads below 0": {**PLAIN, "threads": -1},
    "a runtime without an engine": {"runtime": [{"precisions": ["fp32"]}]},
    "an unknown precision": {"runtime": [{"engine": "x", "precisions": ["fp23"]}]},
    "an unknown recipe": {"runtime": [{"engine": "x", "quantization": [{"name": "none", "needs": "avx"}]}]},
    "a figure without a source": {**PLAIN, "unit": {"cpu": {"clock_ghz": {"value": 1, "kind": "published"}}}},
    "an unknown figure": {**PLAIN, "unit": {"cpu": {"clock": {"value": 1, "kind": "published", "source": "x"}}}},
    "a power mode without a kind": {**PLAIN, "power_mode": [{"name": "15W", "source": "x"}]},
}


@pytest.mark.parametrize("table", WRONG_PROFILES.values(), ids=list(WRONG_PROFILES))
def test_what_is_wrong_in_a_profile_by_the_schema_is_told_by_the_reader(table, tmp_path):
    assert is_valid("profile", PLAIN) and is_read("profile", PLAIN, tmp_path)
    assert not is_valid("profile", table)
    assert not is_read("profile", table, tmp_path)


@pytest.mark.parametrize(
    ("of", "table"), [("recipe", RECIPE), ("recipe", SEARCHED), ("profile", PROFILE)], ids=["recipe", "searched", "profile"]
)
def test_an_editor_underlines_nothing_that_can_be_read(of, table, tmp_path):
    rnd = generator(f"schema {of}")
    assert is_valid(of, table)
    for _ in range(inputs(20)):
        mutated = mutated_table(table, rnd)
        assert is_valid(of, mutated) or not is_read(of, mutated, tmp_path), mutated


def test_it_is_printed_and_has_words_for_every_stage(capsys):
    assert entry(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(recipe_schema()))
    entries = {each["title"]: each for each in printed["properties"]["stage"]["items"]["oneOf"]}
    assert set(entries) == set(stages()) and all(each["description"] for each in entries.values())
    assert entries["prune"]["properties"]["warmup"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.05,
        "description": "Fraction of all steps.",
    }
    assert entry(["schema", "profile"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(profile_schema()))
