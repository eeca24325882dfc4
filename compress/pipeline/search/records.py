"""What a study keeps, as records: the front of a device, and the recipe of a trial."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline.search.runner import TrialRunner
from compress.pipeline.search.space import put, without_search
from compress.pipeline.search.study import find_study, storage_errors
from compress.pipeline.search.told import DAMAGED, Told, read_told
from compress.recipe.search import STAGES, Dimension, SearchSpec
from compress.report.search_record import DeviceFront, TrialRecord
from profiles.errors import UserError
from profiles.toml import shown

if TYPE_CHECKING:
    import optuna


def device_front(study: optuna.Study, device: str, runner: TrialRunner, spec: SearchSpec) -> DeviceFront:
    """Describe all trials of a study that have ended."""
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        told = read_told(trial)
        if told is None:
            told, point = Told(reason=DAMAGED), None
        else:
            point = told.point
        finished = trial.state.name == "COMPLETE" and point is not None
        trials.append(
            TrialRecord(
                number=trial.number,
                state="finished" if finished else "stopped",
                values=decoded(trial.params),
                stages=told.stages,
                point=point,
                share=told.share,
                faults=runner.limits.faults(point) if point and finished else (),
                reason=told.reason,
                asked=told.asked,
                made=told.made,
                seconds=told.seconds,
                recipe=told.recipe,
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
    """Return a trial's recipe as TOML."""
    import tomli_w

    file = Path(source).name
    about = f"# Trial {number} of the search of {file}; paths in it begin where {file} lies."
    return f"{about}\n{tomli_w.dumps(without_search(table))}"


def trial_table(
    url: str, name: str, device: str, number: int, base: Mapping[str, Any], space: Sequence[Dimension]
) -> dict[str, Any]:
    """Return the table of a trial's recipe: its values, put into the user's own recipe.

    Others may write to a storage that is shared: of it nothing counts but values that the user's own space has.

    Raises:
        UserError: there is no such search or trial, or it has values that the space has not.
    """
    study = find_study(url, f"{name} on {device}")
    with storage_errors(url):
        trials = {trial.number: trial for trial in study.get_trials(deepcopy=False) if trial.params}
    if number not in trials:
        known = ", ".join(map(str, trials)) or "(none)"
        raise UserError(f"--trial {number}: the search of {name} on {device} has trials {known}")
    values, by_key = decoded(trials[number].params), {dimension.key: dimension for dimension in space}
    faults = [
        f"--trial {number}: {key} = {shown(value)} is not in the recipe's [search]; has the recipe changed since?"
        for key, value in values.items()
        if key not in by_key or not by_key[key].holds(value)
    ]
    if faults:
        raise UserError(*faults)
    table = copy.deepcopy(dict(base))
    for key in sorted(values, key=lambda key: key != STAGES):
        put(table, key, values[key])
    return without_search(table)


def decoded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as values of a recipe."""
    return {key: _value(value) for key, value in params.items()}


def _value(coded: Any) -> Any:
    try:
        return json.loads(coded) if isinstance(coded, str) else coded
    except (ValueError, RecursionError):
        return coded


def coded(values: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """Return another device's values as parameters here; what this space does not have is left out."""
    known = {dimension.key: dimension for dimension in space}
    return {
        key: json.dumps(value, sort_keys=True) if known[key].choices else value
        for key, value in values.items()
        if key in known and known[key].holds(value)
    }
