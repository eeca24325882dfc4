"""What a study keeps, as records: the front of a device, and the recipe of a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline.search.runner import TrialRunner
from compress.pipeline.search.space import without_search
from compress.pipeline.search.study import find_study
from compress.recipe.search import Dimension, SearchSpec
from compress.report.search_record import DeviceFront, Point, TrialRecord
from profiles.errors import UserError

if TYPE_CHECKING:
    import optuna


def device_front(study: optuna.Study, device: str, runner: TrialRunner, spec: SearchSpec) -> DeviceFront:
    """Describe all trials of a study that have ended."""
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        told = trial.user_attrs
        point = Point(**told["point"]) if "point" in told else None
        finished = trial.state.name == "COMPLETE"
        trials.append(
            TrialRecord(
                number=trial.number,
                state="finished" if finished else "stopped",
                values=decoded(trial.params),
                stages=tuple(told.get("stages", ())),
                point=point,
                share=told.get("share", 0.0),
                faults=runner.limits.faults(point) if point and finished else (),
                reason=told.get("reason", ""),
                asked=told.get("asked", 0),
                made=told.get("made", 0),
                seconds=told.get("seconds", 0.0),
                recipe=told.get("recipe", ""),
            )
        )
    return DeviceFront(
        device=device,
        metric=runner.task.metric,
        unit=runner.task.unit,
        least_accuracy=runner.limits.accuracy,
        objectives=tuple(spec.objectives),
        free=runner.free,
        trials=tuple(trials),
        latency_budget_ms=runner.limits.latency_ms,
    )


def recipe_toml(table: Mapping[str, Any], number: int, source: str) -> str:
    """Return a trial's recipe as TOML.

    Raises:
        UserError: tomli-w is not installed.
    """
    try:
        import tomli_w
    except ImportError:
        raise UserError("compress search needs tomli-w: pip install 'edge-compress[search]'") from None
    file = Path(source).name
    about = f"# Trial {number} of the search of {file}; paths in it begin where {file} lies."
    return f"{about}\n{tomli_w.dumps(without_search(table))}"


def trial_recipe(url: str, name: str, device: str, number: int) -> str:
    """Return the recipe of a trial of a search, as TOML.

    Raises:
        UserError: there is no such search, or no such trial.
    """
    study = find_study(url, f"{name} on {device}")
    recipes = {trial.number: trial.user_attrs.get("recipe") for trial in study.get_trials(deepcopy=False)}
    known = [str(each) for each, recipe in recipes.items() if recipe]
    if str(number) not in known:
        raise UserError(f"--trial {number}: the search of {name} on {device} has trials {', '.join(known) or '(none)'}")
    return str(recipes[number])


def decoded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as values of a recipe."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in params.items()}


def coded(values: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """Return another device's values as parameters here; what this space does not have is left out."""
    known = {dimension.key: dimension for dimension in space}
    return {
        key: json.dumps(value, sort_keys=True) if known[key].choices else value
        for key, value in values.items()
        if key in known and known[key].holds(value)
    }
