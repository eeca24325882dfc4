"""The story of a search: a space, trials in rungs on each device, the front of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.execution.cache import StepCache, check_writable, digest
from compress.execution.progress import Progress, keep_telling
from compress.pipeline.races import RaceOptions
from compress.pipeline.search.records import coded, device_front
from compress.pipeline.search.runner import TrialRunner
from compress.pipeline.search.space import as_recipe, check_space, own_values, space_of, without_search
from compress.pipeline.search.study import HEARTBEAT_S, open_study, work
from compress.pipeline.search.trials import Trials
from compress.pipeline.target import ResolvedTarget
from compress.recipe.search import SearchSpec, parse_search
from compress.report import search_page
from compress.report.search_record import DeviceFront, SearchReport
from profiles.errors import UserError

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"


def search(
    table: Mapping[str, Any],
    name: str,
    source: str,
    targets: Sequence[tuple[str, ResolvedTarget]],
    out: Path,
    steps: Path,
    progress: Progress,
    *,
    trials: int | None,
    hours: float | None,
    join: str | None = None,
    quiet_seconds: float | None = None,
    heartbeat_s: int = HEARTBEAT_S,
) -> SearchReport:
    """Search the recipe in ``table`` on each device; leave ``search.json`` and ``search.html`` in ``out``.

    What the first device's search tried is measured on every other one too, then each goes on with trials of its own: what
    they share is there already.

    Args:
        trials: of all processes together, for each device; ``hours`` for this process on all devices.
        join: address of a storage that several processes share; a file in ``out`` without.

    Raises:
        UserError: what does not fit, before anything is trained.
    """
    check_writable(out)
    base, spec = without_search(table), spec_of(table, source)
    recipe, cache = as_recipe(base, name, source), StepCache(steps, progress)
    until = math.inf if hours is None else time.monotonic() + 3600 * hours
    fronts: list[DeviceFront] = []
    with keep_telling(progress):
        for device, target in targets:
            progress.say(f"searching {name} on {device}")
            space = space_of(spec, base, target.profile)
            check_space(space, base, name, source)
            decided = {"base": base, "spec": spec.as_json(), "space": [repr(dimension) for dimension in space]}
            url, title = join or study_url(out), f"{name} on {device}"
            seed = None if join else recipe.seed
            study = open_study(url, title, spec, seed, digest(decided), heartbeat_s=heartbeat_s)
            quiet = recipe.measure.quiet_seconds if quiet_seconds is None else quiet_seconds
            runner = TrialRunner(recipe, target.profile, target.device, cache, progress, RaceOptions(quiet_seconds=quiet))
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(own_values(space, base, recipe), skip_if_exists=True)
                for done in (trial for earlier in fronts for trial in earlier.front):
                    study.enqueue_trial(coded(done.values, space), skip_if_exists=True)
            show = partial(_show, name, out, tuple(fronts), partial(device_front, study, device, runner, spec))
            run_trial = Trials(study, runner, space, base, spec, name, source, progress)
            work(study, partial(_run, run_trial, show), trials, until, progress.say)
            fronts.append(show())
    return SearchReport(name=name, fronts=tuple(fronts))


def _run(run_trial: Trials, show: Callable[[], DeviceFront], trial: optuna.Trial) -> Sequence[float]:
    """Show what there is so far, then run a trial."""
    show()
    return run_trial(trial)


def _show(name: str, out: Path, before: tuple[DeviceFront, ...], front: Callable[[], DeviceFront]) -> DeviceFront:
    """Write the record and the picture of all devices so far; return the front of the one that is searched."""
    found = front()
    report = SearchReport(name=name, fronts=(*before, found))
    report.write(out)
    search_page.write(report, out)
    return found


def study_url(out: Path) -> str:
    """Name the storage of a search that no other process joins."""
    return f"sqlite:///{(out / STUDY_FILE).resolve()}"


def spec_of(table: Mapping[str, Any], source: str) -> SearchSpec:
    """Parse [search] of a recipe's table."""
    faults: list[str] = []
    spec = parse_search(table["search"], source, faults) if "search" in table else SearchSpec()
    if spec is None or faults:
        raise UserError(*faults)
    return spec
