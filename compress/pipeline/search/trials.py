"""Trials in rungs: before training, after a tenth of the epochs, after all; each may stop one, with the reason."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from compress.execution.progress import Progress
from compress.pipeline.search import rungs
from compress.pipeline.search.records import decoded, recipe_toml
from compress.pipeline.search.rungs import Finished
from compress.pipeline.search.runner import UNTRAINED, TrialRunner, has_tenth
from compress.pipeline.search.space import as_recipe, suggest
from compress.pipeline.search.study import Stopped
from compress.pipeline.search.told import read_told
from compress.recipe.search import RUNTIMES, Dimension, SearchSpec
from compress.recipe.spec import Recipe
from compress.report.search_record import Point, costs_of
from compress.stages.runner import StageError
from deploy.engines.base import EngineError
from profiles.errors import UserError

if TYPE_CHECKING:
    import optuna

SHARES = {rungs.TENTH: "a tenth of the", 1.0: "all"}


@final
class Trials:
    """Runs the trials of one study in rungs."""

    def __init__(
        self,
        study: optuna.Study,
        runner: TrialRunner,
        space: Sequence[Dimension],
        base: Mapping[str, Any],
        spec: SearchSpec,
        name: str,
        source: str,
        progress: Progress,
    ) -> None:
        self._study, self._runner, self._space, self._base, self._spec = study, runner, space, base, spec
        self._name, self._source, self._progress = name, source, progress

    def __call__(self, trial: optuna.Trial) -> Sequence[float]:
        started, cache = time.monotonic(), self._runner.cache
        cache.asked.clear()
        cache.made.clear()
        try:
            return self._in_rungs(trial)
        except (UserError, StageError, EngineError) as error:
            raise Stopped(reason=str(error).splitlines()[0]) from error
        finally:
            trial.set_user_attr("asked", len(cache.asked))
            trial.set_user_attr("made", len(cache.made & cache.asked))
            trial.set_user_attr("seconds", time.monotonic() - started)

    def _in_rungs(self, trial: optuna.Trial) -> Sequence[float]:
        table = suggest(trial, self._space, self._base)
        runtimes = table.get("search", {}).get(RUNTIMES)
        self._progress.say(f"trial {trial.number}: {', '.join(f'{k} = {v}' for k, v in decoded(trial.params).items())}")
        recipe = as_recipe(table, self._name, self._source)
        trial.set_user_attr("recipe", recipe_toml(table, trial.number, self._source))
        trial.set_user_attr("stages", [stage.name for stage in recipe.stages])
        self._refuse_twice(trial)
        limits, objectives = self._runner.limits, self._spec.objectives
        before = self._measured(trial, recipe, UNTRAINED, runtimes)
        self._stop(rungs.why_stop_untrained(before, self._finished(), limits, objectives))
        tenth = None
        if has_tenth(recipe.stages, rungs.TENTH):
            tenth = self._measured(trial, recipe, rungs.TENTH, runtimes)
            self._stop(rungs.why_stop_at_tenth(tenth, self._finished(), limits, objectives))
            if len(objectives) == 1:
                trial.report(tenth.accuracy, 1)
                self._stop(f"Optuna's {self._spec.pruner} pruner" if trial.should_prune() else "")
        point = self._measured(trial, recipe, 1.0, runtimes)
        for name, excess in limits.excesses(point).items():
            trial.set_constraint(name, excess)
        if tenth is not None:
            trial.set_user_attr("gain", point.accuracy - tenth.accuracy)
        costs = dict(zip(objectives, costs_of(point, objectives), strict=True))
        self._stop("; ".join(f"{name} was not measured" for name, cost in costs.items() if math.isinf(cost)))
        return [-cost if objective == "accuracy" else cost for objective, cost in costs.items()]

    def _measured(self, trial: optuna.Trial, recipe: Recipe, share: float, runtimes: str | None) -> Point:
        point = self._runner.run(recipe, share, runtimes)
        trial.set_user_attr("point", vars(point))
        trial.set_user_attr("share", share)
        told = "before training" if share == UNTRAINED else f"{point.accuracy:.2f} after {SHARES.get(share, share)} epochs"
        self._progress.say(f"  {told}: {point.latency_ms:.3f} ms, {point.stored_bytes / 1024:.0f} KiB, {point.form}")
        return point

    def _refuse_twice(self, trial: optuna.Trial) -> None:
        """Stop a trial whose recipe another one had."""
        own = _body(trial.user_attrs["recipe"])
        for other in self._study.get_trials(deepcopy=False):
            is_under_way = other.state.name == "RUNNING" and other.number < trial.number
            is_done = other.state.name in ("COMPLETE", "PRUNED") and other.number != trial.number
            if (is_done or is_under_way) and _body(str(other.user_attrs.get("recipe", ""))) == own:
                self._stop(f"the same as trial {other.number}")

    def _finished(self) -> list[Finished]:
        """List what the untouched teacher and all finished trials reached."""
        found = [Finished(name=f"the untouched teacher as {point.form}", point=point) for point in self._runner.free]
        for trial in self._study.get_trials(deepcopy=False):
            told = read_told(trial) if trial.state.name == "COMPLETE" else None
            if told is not None and told.point is not None:
                found.append(Finished(name=f"trial {trial.number}", point=told.point, gain=told.gain))
        return found

    def _stop(self, reason: str) -> None:
        if reason:
            raise Stopped(reason=reason)


def _body(recipe: str) -> str:
    """Return a trial's recipe without the line that has its number."""
    return recipe.partition("\n")[2]
