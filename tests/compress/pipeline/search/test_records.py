"""The recipe of a trial, from a study that others may write to."""

import json

import pytest

from compress.pipeline.search.records import trial_table
from compress.pipeline.search.study import open_study
from compress.recipe.parse import parse, read_table
from compress.recipe.search import Dimension, SearchSpec
from profiles.errors import UserError

optuna = pytest.importorskip("optuna")

SPACE = (
    Dimension(key="student.width", choices=(0.5, 1.0)),
    Dimension(key="stages", choices=(["distill"], ["distill", "prune"])),
    Dimension(key="prune.ratio", low=0.1, high=0.5),
)


@pytest.fixture
def told(tmp_path):
    """A function that keeps parameters as a trial, and returns the table of its recipe."""
    url = f"sqlite:///{tmp_path}/study.db"
    study = open_study(url, "digits on cpu", SearchSpec(), 0, "a")

    def tell(**params):
        kinds = {
            key: optuna.distributions.CategoricalDistribution([value])
            if isinstance(value, str)
            else optuna.distributions.FloatDistribution(value, value)
            for key, value in params.items()
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, values=[1.0, 1.0]))
        number = len(study.get_trials()) - 1
        return trial_table(url, "digits", "cpu", number, read_table("digits")[0], SPACE)

    return tell


def test_a_trials_values_are_put_into_the_users_recipe(told):
    table = told(**{"prune.ratio": 0.25, "stages": '["distill", "prune"]', "student.width": "0.5"})
    made = parse(table, name="digits", source="digits.toml")
    assert [stage.name for stage in made.stages] == ["distill", "prune"] and made.stages[1].ratio == 0.25
    assert made.student.arguments["width"] == 0.5


@pytest.mark.parametrize(
    "params",
    [
        {"student.model": json.dumps("os:system")},
        {"stages": json.dumps(["distill", "somebody.stage"])},
        {"student.width": "0.75"},
        {"prune.ratio": 0.9},
        {"student.width": "not JSON"},
    ],
)
def test_of_a_study_nothing_counts_but_values_of_the_users_own_space(told, params):
    with pytest.raises(UserError, match=r"is not in the recipe's \[search\]"):
        told(**params)


def test_a_trial_that_is_not_there_is_told(told, tmp_path):
    told(**{"student.width": "0.5"})
    with pytest.raises(UserError, match="--trial 7: the search of digits on cpu has trials 0"):
        trial_table(f"sqlite:///{tmp_path}/study.db", "digits", "cpu", 7, {}, SPACE)
