"""The whole story on one page. READ THIS FIRST.

    recipe + device -> teacher -> student -> ( stage -> gate )* -> engines -> measure -> report, bundle

Each piece of work is a step of the cache, made once. The gate and every choice look at validation;
the report's rows are judged on test.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from compress.execution import distributed
from compress.execution.cache import StepCache, check_writable
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, doing, keep_telling
from compress.models import plan
from compress.pipeline import bundle, calibration_curve, calibration_likeness, folding, operating_points
from compress.pipeline import student_search as searching
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.comparison import Comparer
from compress.pipeline.evaluator import Evaluator
from compress.pipeline.gating import Gating
from compress.pipeline.host import host_environment
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.names import describe_teacher
from compress.pipeline.races import RaceOptions
from compress.pipeline.results import Attempt, Entry, Guest, list_entries, list_refused, measure_rows, raced_speedup
from compress.pipeline.verdict import conclude, find_warnings, not_clean, ran_elsewhere
from compress.recipe.spec import Recipe
from compress.report import html
from compress.report.record import Report
from compress.stages.base import Stage
from compress.tasks import thresholds
from deploy.devices import Device
from profiles.device import DeviceProfile
from profiles.errors import UserError


def run(
    recipe: Recipe,
    profile: DeviceProfile,
    device: Device,
    out: Path,
    steps: Path,
    progress: Progress,
    until: str | None = None,
    *,
    lock_clocks: bool = False,
    measure_again: bool = False,
) -> Report:
    """Run ``recipe`` for the device; leave ``report.json``, ``report.html``, ``model/`` and ``bundle/`` in ``out``.

    Args:
        measure_again: time everything again, and train nothing: what is not there ends the run.

    Raises:
        UserError: what does not fit; or another process writes to ``out``.
    """
    chain = until_stage(recipe, until)
    options = race_options(recipe, lock_clocks=lock_clocks, again=measure_again)
    check_writable(out)
    with only_writer(out), keep_telling(progress):
        cache, started = StepCache(steps, progress, trains=not measure_again), time.perf_counter()
        report = finish(develop(recipe, chain, profile, device, cache, progress, options, out), out).report
        tell_end(cache, started, progress)
        return report


def race_options(recipe: Recipe, *, lock_clocks: bool, again: bool) -> RaceOptions:
    """Return how a run's races are held."""
    return RaceOptions(quiet_seconds=recipe.measure.quiet_seconds, lock_clocks=lock_clocks, again=again)


def tell_end(cache: StepCache, started: float, progress: Progress) -> None:
    """Say how long a run took, and what of it was no step."""
    took = time.perf_counter() - started
    checking = f"{cache.seconds_checking:.1f} s of it to check kept ones"
    progress.say(f"done in {took:.0f} s; {took - cache.seconds_making:.1f} s outside its steps, {checking}")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Developed:
    """The models of a run on a device, gated there; its rows are not measured yet.

    Attributes:
        recipe: its names resolved, its student found.
        standing: the student after the last accepted stage; the teacher where it is the teacher and none was.
        warnings: of the data.
    """

    recipe: Recipe
    builder: ModelBuilder
    evaluator: Evaluator
    cache: StepCache
    progress: Progress
    teacher: CachedModel
    baselines: Sequence[tuple[str, CachedModel]]
    attempts: Sequence[Attempt]
    standing: CachedModel
    warnings: tuple[str, ...] = ()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A run on a device with its report; ``entries`` are the rows' models."""

    developed: Developed
    entries: Sequence[Entry]
    report: Report


def develop(
    recipe: Recipe,
    chain: Sequence[Stage],
    profile: DeviceProfile,
    device: Device,
    cache: StepCache,
    progress: Progress,
    options: RaceOptions,
    out: Path,
    earlier: Sequence[Developed] = (),
) -> Developed:
    """Build the teacher, and try each stage of ``chain`` on the device.

    Args:
        out: where trackers write.
        earlier: on other devices: what their stages made is judged here first, since it costs no training.
    """
    builder = ModelBuilder(recipe, profile, cache, progress, tracked=out / "trackers")
    recipe = builder.recipe  # its names resolved
    evaluator = Evaluator(builder, device, profile, cache, progress, options)
    builder.check()
    traffic = calibration_likeness.traffic_of(builder)

    progress.say(describe_teacher(recipe))
    teacher = builder.teacher()
    if note := builder.describe(teacher):
        progress.say(f"  {note}")
    for note in teacher.notes if teacher.is_onnx else ():
        progress.say(f"  {note}")
    builder.choose_calibration(teacher)
    unlike = calibration_likeness.find_warnings(teacher, traffic, builder, evaluator, cache)
    for warning in unlike:
        progress.say(f"WARNING: {warning}")
    if recipe.student.search is not None:
        progress.say("student: searching")
        search = searching.find(recipe, builder, evaluator, cache, progress)
        progress.say(searching.table(search))
        recipe = searching.with_student(recipe, search)
        builder.check_student(recipe.student)
    standing, start = teacher, builder.student(teacher, recipe.student)
    attempts: list[Attempt] = []
    baselines = builder.baselines()
    if chain:
        progress.say("measuring the teacher")
        with evaluator.pool.open():
            comparer = Comparer(teacher, evaluator, recipe.budget, builder.task.full_scale, recipe.measure.gate_seconds)
            for line in comparer.fastest_lines():
                progress.say(f"  {line}")
        gating = Gating(teacher=teacher, builder=builder, evaluator=evaluator, comparer=comparer, progress=progress)
    for stage in chain:
        attempts += gating.attempts(stage, start, standing, lent(stage, start, profile, earlier))
        if attempts[-1].decision.verdict == "accepted":
            standing = attempts[-1].made
        start = standing  # rejected: the run goes on from before the stage
    return Developed(
        recipe=recipe,
        builder=builder,
        evaluator=evaluator,
        cache=cache,
        progress=progress,
        teacher=teacher,
        baselines=baselines,
        attempts=attempts,
        standing=standing,
        warnings=unlike,
    )


def lent(
    stage: Stage, start: CachedModel, profile: DeviceProfile, earlier: Sequence[Developed]
) -> list[tuple[str, Attempt]]:
    """List attempts of ``stage`` at the same model on other devices, with the device's name, where the device decides it."""
    found: dict[str, tuple[str, Attempt]] = {}
    for other in earlier:
        if not stage.asks_target and stage.key(profile) == stage.key(other.builder.profile):
            continue  # the stage makes the same here
        for attempt in other.attempts:
            if attempt.is_of(stage, start):
                found.setdefault(attempt.made.step.key, (other.builder.profile.name, attempt))
    return list(found.values())


def finish(developed: Developed, out: Path, guests: Sequence[Guest] = ()) -> Finished:
    """Measure every row, and write report, model and bundle to ``out``.

    Args:
        guests: students of other devices, which get rows here too.
    """
    builder, evaluator, progress, recipe = developed.builder, developed.evaluator, developed.progress, developed.recipe
    teacher, standing, profile = developed.teacher, developed.standing, developed.builder.profile
    check_writable(out)
    progress.say("measuring every row on the engines")
    entries = list_entries(teacher, developed.baselines, developed.attempts, standing, evaluator, guests)
    seconds, scale = recipe.measure.seconds, builder.task.full_scale
    with evaluator.pool.open():
        rows = measure_rows(entries, evaluator, seconds)
    doubts = evaluator.doubts([entry.variant for entry in entries], seconds)
    tried = [(attempt.name, attempt.made) for attempt in developed.attempts]
    others = [(guest.title, guest.made) for guest in guests]
    report = Report(
        recipe=recipe.as_json(),
        device=profile.as_json(),
        environment={**host_environment(), **evaluator.environment},
        budget=recipe.budget,
        rows=tuple(rows),
        scale=scale,
        refused=list_refused(
            [("teacher", teacher), *developed.baselines, *tried, ("student", standing), *others], evaluator
        ),
        agreement=builder.task.agreement,
        verdict=conclude(
            rows,
            recipe.budget,
            scale=scale,
            speedup=lambda one, other: raced_speedup(entries, evaluator, seconds, one, other),
            is_quiet=not doubts,
        ),
        warnings=(
            *developed.warnings,
            *find_warnings(rows, scale=scale, is_trained_here=builder.trains_teacher(teacher)),
            *not_clean(doubts, evaluator.url),
            *ran_elsewhere([(entry.name, evaluator.remark(entry.variant)) for entry in entries]),
        ),
    )
    best = next(entry.variant for entry in entries if entry.name == report.verdict.best)
    chosen = operating_points.choose(best, teacher, evaluator, builder, developed.cache)
    read_as = builder.describe(teacher)
    told = thresholds.describe(chosen, len(builder.data.validation)) if chosen else ""
    of_set = () if builder.recovery is None else builder.recovery.notes
    accepted = [(a.name, a.made) for a in developed.attempts if a.decision.verdict == "accepted"]
    judged = calibration_curve.last_float(teacher, accepted)
    curve = calibration_curve.measure(*judged, builder, evaluator, developed.cache, progress)
    folded, found = folding.fold(best, evaluator, progress, seconds)
    notes = (*of_set, read_as, told, builder.models.steps_told(), found)
    record = None if folded is None else folded.record()
    report = replace(report, notes=tuple(note for note in notes if note), folded=record, curve=curve)
    cargo = bundle.collect(best, evaluator, builder, chosen, folded)
    if distributed.is_main():
        report.write(out)
        with doing(progress, "drawing the report"):
            html.write(report, out)
        if not standing.is_onnx:
            plan.copy_saved(standing.step.folder, out / plan.FOLDER)
        with doing(progress, "writing the bundle"):
            bundle.bundle(out / "bundle", cargo, report, profile, progress)
    distributed.wait()
    return Finished(developed=developed, entries=entries, report=report)


def students(
    recipe: Recipe, profile: DeviceProfile, device: Device, steps: Path, progress: Progress
) -> searching.StudentSearchResult:
    """Run only the search of a recipe's student."""
    cache = StepCache(steps, progress)
    builder = ModelBuilder(recipe, profile, cache, progress)
    builder.check()
    evaluator = Evaluator(builder, device, profile, cache, progress)
    return searching.find(builder.recipe, builder, evaluator, cache, progress)


def until_stage(recipe: Recipe, until: str | None) -> tuple[Stage, ...]:
    """Return the recipe's stages up to and with the one named ``until``."""
    if until is None:
        return recipe.stages
    names = [stage.name for stage in recipe.stages]
    if until not in names:
        raise UserError(f"--until {until}: the recipe has no such stage; it has {', '.join(names) or 'none'}")
    return recipe.stages[: names.index(until) + 1]
