"""[search] of a recipe: ranges, choices, and everything that is none, at once."""

import pytest

from compress.recipe.parse import parse
from compress.recipe.search import Dimension, parse_search
from profiles.errors import UserError

RECIPE = {
    "task": {"data": "digits"},
    "teacher": {"model": "compress.models:resnet20", "arguments": {"in_channels": 1}},
    "stage": [{"use": "distill"}],
}


def dimensions(**table):
    faults = []
    found = parse_search(table, "my.toml", faults)
    assert faults == []
    return found.dimensions


def test_two_numbers_are_a_range_and_all_else_are_choices():
    found = dimensions(
        **{
            "prune.speed_up": [1.5, 4.0],
            "quantize.epochs": [2, 8],
            "prune": {"rounds": [1, 2, 3], "ratio": {"low": 0.1, "high": 0.5, "log": True}},
            "student": {"width": {"choices": [0.5, 1.0]}},
            "stages": [["distill"], ["quantize"]],
        }
    )
    assert found == (
        Dimension(key="prune.speed_up", low=1.5, high=4.0),
        Dimension(key="quantize.epochs", low=2, high=8),
        Dimension(key="prune.rounds", choices=(1, 2, 3)),
        Dimension(key="prune.ratio", low=0.1, high=0.5, log=True),
        Dimension(key="student.width", choices=(0.5, 1.0)),
        Dimension(key="stages", choices=(["distill"], ["quantize"])),
    )
    assert [found[index].is_whole for index in (0, 1)] == [False, True]
    assert found[0].holds(4.0) and not found[0].holds(4.1) and found[4].holds(0.5) and not found[4].holds(0.75)


def test_everything_wrong_is_said_at_once():
    table = {
        "objectives": ["accuracy", "speed"],
        "sampler": "grid",
        "prune.speed_up": [4.0, 1.5],
        "prune.ratio": {"low": 0, "high": 1, "log": True},
        "prune.rounds": 2,
        "quantize.attempt": ["mixed", "mixed"],
        "stages": ["distill"],
        "pruner": "median",
    }
    with pytest.raises(UserError) as raised:
        parse({**RECIPE, "search": table}, name="my", source="my.toml")
    words = (
        "speed",
        "sampler",
        "speed_up: low below high",
        "prune.ratio",
        "prune.rounds",
        "each once",
        "lists of stages",
        "pruner",
    )
    assert [word for word in words if word not in str(raised.value)] == []


def test_a_run_takes_the_recipe_without_its_search():
    plain = parse(RECIPE, name="my", source="my.toml")
    assert parse({**RECIPE, "search": {"distill.epochs": [5, 9]}}, name="my", source="my.toml") == plain
