"""The story of a search: a space, trials in rungs on each device, the front of each."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from compress.execution.cache import StepCache, check_writable, digest
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, keep_telling
from compress.pipeline.races import RaceOptions
from compress.pipeline.search.records import coded, device_front
from compress.pipeline.search.runner import TrialRunner
from compress.pipeline.search.space import as_recipe, check_space, own_values, space_of, without_search
from compress.pipeline.search.study import HEARTBEAT_S, open_study, work
from compress.pipeline.search.trials import Trials
from compress.pipeline.target import AskedDevice, ResolvedTarget
from compress.recipe.search import Dimension, SearchSpec, parse_search
from compress.report import search_page
from compress.report.search_record import DeviceFront, SearchReport
from deploy.devices import DeviceError
from profiles.errors import UserError, one_line

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
TURN_S = 20.0
"""How long a process that joined a search waits until another one has written the front."""


@final
@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """How long a search goes on, and how.

    Attributes:
        trials: of all processes together, for each device; None for as long as ``hours``.
        hours: that this process works on all devices.
        join: address of a storage that several processes share; a file in the search's folder without.
        quiet_seconds: how long a race waits for a device that others use; None for what the recipe says.
        heartbeat_s: four missing heartbeats, and a minute at least, give a trial out again.
    """

    trials: int | None = None
    hours: float | None = None
    join: str | None = None
    quiet_seconds: float | None = None
    heartbeat_s: int = HEARTBEAT_S


def search(
    table: Mapping[str, Any],
    name: str,
    source: str,
    devices: Sequence[AskedDevice],
    out: Path,
    steps: Path,
    progress: Progress,
    limits: SearchLimits,
) -> SearchReport:
    """Search the recipe in ``table`` on each device; leave ``search.json`` and ``search.html`` in ``out``.

    What the first device's search found is measured on every other one too, then each goes on with trials of its own: what
    they share is there already. A device that fails is told, and takes nothing from the others.

    Raises:
        UserError: what does not fit, before anything is trained.
        DeviceError: no device has a front.
    """
    check_writable(out)
    until = math.inf if limits.hours is None else time.monotonic() + 3600 * limits.hours
    found = _Search(table, name, source, out, StepCache(steps, progress), progress, limits, until)
    faults = {device.given: device.fault for device in devices if device.target is None}
    fronts: list[DeviceFront] = []
    error: DeviceError | None = None
    # Those that join a search write the same front, each in its turn; else one process writes there, as of a run.
    with nullcontext() if limits.join else only_writer(out), keep_telling(progress):
        for device, fault in faults.items():
            progress.say(f"{device} is left out: {fault}")
        for asked in devices:
            if asked.target is None:
                continue
            try:
                fronts.append(found.on_device(asked.given, asked.target, fronts, faults))
            except DeviceError as lost:
                error, faults[asked.given] = lost, one_line(str(lost))
                progress.say(f"{asked.given} failed: {faults[asked.given]}")
    if error is not None and not fronts:
        raise error
    report = SearchReport(name=name, fronts=tuple(fronts), faults=faults)
    _write(report, out, takes_turn=True)
    return report


@final
class _Search:
    """One recipe's search, on one device after the other."""

    def __init__(
        self,
        table: Mapping[str, Any],
        name: str,
        source: str,
        out: Path,
        cache: StepCache,
        progress: Progress,
        limits: SearchLimits,
        until: float,
    ) -> None:
        self._base, self._spec = without_search(table), spec_of(table, source)
        self._recipe = as_recipe(self._base, name, source)
        self._name, self._source, self._out, self._cache = name, source, out, cache
        self._progress, self._limits, self._until = progress, limits, until

    def on_device(
        self, device: str, target: ResolvedTarget, before: Sequence[DeviceFront], faults: Mapping[str, str]
    ) -> DeviceFront:
        """Run trials on a device; return its front."""
        self._progress.say(f"searching {self._name} on {device}")
        study, space = self._study(device, target)
        quiet = self._limits.quiet_seconds
        options = RaceOptions(quiet_seconds=self._recipe.measure.quiet_seconds if quiet is None else quiet)
        runner = TrialRunner(self._recipe, target.profile, target.device, self._cache, self._progress, options)
        runner.check(self._spec.objectives)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(own_values(space, self._base, self._recipe), skip_if_exists=True)
            for done in (trial for earlier in before for trial in earlier.front):
                study.enqueue_trial(coded(done.values, space), skip_if_exists=True)
        run_trial = Trials(study, runner, space, self._base, self._spec, self._name, self._source, self._progress)

        def front() -> DeviceFront:
            found = device_front(study, device, runner, self._spec)
            report = SearchReport(name=self._name, fronts=(*before, found), faults=faults)
            _write(report, self._out, takes_turn=self._limits.join is not None)
            return found

        def run(trial: optuna.Trial) -> Sequence[float]:
            front()  # what there is so far
            return run_trial(trial)

        work(study, run, self._limits.trials, self._until, self._progress.say)
        return front()

    def _study(self, device: str, target: ResolvedTarget) -> tuple[optuna.Study, Sequence[Dimension]]:
        """Open the study of a device, and its space, each value of which fits the recipe."""
        space = space_of(self._spec, self._base, target.profile)
        check_space(space, self._base, self._name, self._source)
        decided = {"base": self._base, "spec": self._spec.as_json(), "space": [repr(dimension) for dimension in space]}
        join = self._limits.join
        url, title, seed = join or study_url(self._out), f"{self._name} on {device}", None if join else self._recipe.seed
        return open_study(url, title, self._spec, seed, digest(decided), heartbeat_s=self._limits.heartbeat_s), space


def _write(report: SearchReport, out: Path, *, takes_turn: bool) -> None:
    """Write the record and the picture, where others write there too in turn."""
    with only_writer(out, patience_s=TURN_S) if takes_turn else nullcontext():
        report.write(out)
        search_page.write(report, out)


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
