"""Values in a recipe's table, and the space of a recipe that names none."""

import pytest

from compress.pipeline.search.space import as_recipe, check_space, own_values, put, space_of, suggest, value_at
from compress.recipe.parse import read_table
from compress.recipe.search import Dimension
from profiles.device import load as load_profile
from profiles.errors import UserError

optuna = pytest.importorskip("optuna")


@pytest.fixture
def base():
    return read_table("digits")[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("student.width", 0.5),
        ("student.blocks", 2),
        ("prune.ratio", 0.2),
        ("distill.losses.kd.temperature", 2.0),
        ("distill.losses.attention.weight", 3.0),
        ("calibration.samples", 64),
    ],
)
def test_what_is_put_is_there(base, key, value):
    put(base, key, value)
    assert value_at(base, key) == value


def test_stages_are_ordered_and_left_out_and_keep_their_settings(base):
    put(base, "stages", ["low_rank", "prune", "pack"])
    assert [entry["use"] for entry in base["stage"]] == ["low_rank", "prune", "pack"]
    assert base["stage"][1]["ratio"] == 0.4


def test_a_stage_that_a_trial_leaves_out_is_not_asked(base):
    space = [Dimension(key="prune.ratio", low=0.1, high=0.5), Dimension(key="stages", choices=(["distill"], ["prune"]))]
    asked = optuna.trial.FixedTrial({"stages": '["distill"]', "prune.ratio": 0.25})
    assert [entry["use"] for entry in suggest(asked, space, base)["stage"]] == ["distill"]
    assert set(asked.params) == {"stages"}
    asked = optuna.trial.FixedTrial({"stages": '["prune"]', "prune.ratio": 0.25})
    table = suggest(asked, space, base)
    assert as_recipe(table, "digits", "digits.toml").stages[0].ratio == 0.25
    assert base["stage"][1]["ratio"] == 0.4, "the recipe stays as it is"


def test_without_a_table_a_space_follows_and_holds_the_recipe_itself(base):
    space = space_of(None, base, load_profile("cpu"))
    by_key = {dimension.key: dimension.choices for dimension in space}
    assert set(by_key) == {"stages", "student.width", "student.depth", "prune.ratio", "low_rank.keep", "quantize.attempt"}
    assert ["distill", "prune", "low_rank", "quantize"] in by_key["stages"] and ["distill"] in by_key["stages"]
    own = own_values(space, base, as_recipe(base, "digits", "digits.toml"))
    assert own["student.width"] == "0.75" and own["prune.ratio"] == "0.4" and own["quantize.attempt"] == '"post_training"'
    check_space(space, base, "digits", "digits.toml")
    again = suggest(optuna.trial.FixedTrial(own), space, base)
    assert as_recipe(again, "d", "d.toml") == as_recipe(base, "d", "d.toml"), "the first trial is the recipe itself"


def test_values_that_the_recipe_cannot_have_are_all_said_before_anything_runs(base):
    space = [
        Dimension(key="prune.ratio", low=0.1, high=1.5),
        Dimension(key="prune.speedup", choices=(1, 2, 3)),
        Dimension(key="pack.bits", choices=(2, 3)),
        Dimension(key="distill.losses.cwd.weight", low=0.1, high=1.0),
        Dimension(key="distill", choices=(1, 2, 3)),
    ]
    with pytest.raises(UserError) as raised:
        check_space(space, base, "digits", "digits.toml")
    words = (
        "prune.ratio = 1.5",
        "did you mean 'speed_up'",
        "no stage 'pack'",
        "losses has ['task', 'kd', 'attention']",
        "such as distill.epochs",
    )
    assert [word for word in words if word not in str(raised.value)] == []


def test_a_recipe_in_which_nothing_varies_is_refused(base):
    with pytest.raises(UserError, match="nothing varies"):
        check_space(
            space_of(None, {**base, "stage": [], "student": {"from": "teacher"}}, load_profile("cpu")), base, "d", "d.toml"
        )
    base["student"] = {"model": "compress.models:resnet", "search": {"choices": {"blocks": [1, 2]}}}
    with pytest.raises(UserError, match=r"student\.ARGUMENT"):
        check_space(space_of(None, base, load_profile("cpu")), base, "digits", "digits.toml")
