"""The whole story on one page. READ THIS FIRST.

    recipe + device -> teacher -> student -> ( stage -> gate )* -> engines -> measure -> report, bundle

Each piece of work is a step of the cache, made once. The gate and every choice look at validation;
the report's rows are judged on test.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from compress.execution import distributed
from compress.execution.cache import StepCache, check_writable
from compress.execution.locks import only_writer
from compress.execution.progress import Progress, doing, keep_telling
from compress.models import plan
from compress.pipeline import bundle, operating_points
from compress.pipeline import student_search as searching
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.comparison import Comparer, Comparison
from compress.pipeline.evaluator import Evaluator, host_environment
from compress.pipeline.gate import Decision, decide
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.names import describe_teacher
from compress.pipeline.races import RaceOptions
from compress.pipeline.results import Attempt, list_entries, list_refused, measure_rows, raced_speedup
from compress.pipeline.verdict import conclude, find_warnings, not_clean
from compress.recipe.spec import Recipe
from compress.report import html
from compress.report.record import Report
from compress.stages.base import Stage
from compress.tasks import thresholds
from deploy.devices import Device
from profiles.device import DeviceProfile
from profiles.errors import UserError

MOST_NOTES = 4


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
    options = RaceOptions(quiet_seconds=recipe.measure.quiet_seconds, lock_clocks=lock_clocks, again=measure_again)
    chain = until_stage(recipe, until)
    check_writable(out)
    with only_writer(out), keep_telling(progress):
        cache = StepCache(steps, progress, trains=not measure_again)
        return _run(recipe, chain, profile, device, out, cache, progress, options)


def _run(
    recipe: Recipe,
    chain: tuple[Stage, ...],
    profile: DeviceProfile,
    device: Device,
    out: Path,
    cache: StepCache,
    progress: Progress,
    options: RaceOptions,
) -> Report:
    started = time.perf_counter()
    builder = ModelBuilder(recipe, profile, cache, progress, tracked=out / "trackers")
    recipe = builder.recipe  # its names resolved
    evaluator = Evaluator(builder, device, profile, cache, progress, options)
    builder.check()

    progress.say(describe_teacher(recipe))
    teacher = builder.teacher()
    if note := builder.describe(teacher):
        progress.say(f"  {note}")
    for note in teacher.notes if teacher.is_onnx else ():
        progress.say(f"  {note}")
    builder.choose_calibration(teacher)
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
    for stage in chain:
        attempts += _try(stage, start, standing, teacher, builder, evaluator, comparer, progress)
        if attempts[-1].decision.verdict == "accepted":
            standing = attempts[-1].made
        start = standing  # rejected: the run goes on from before the stage

    progress.say("measuring every row on the engines")
    found = list_entries(teacher, baselines, attempts, standing, evaluator)
    seconds, scale = recipe.measure.seconds, builder.task.full_scale
    with evaluator.pool.open():
        rows = measure_rows(found, evaluator, seconds)
    doubts = evaluator.doubts([entry.variant for entry in found], seconds)
    report = Report(
        recipe=recipe.as_json(),
        device=profile.as_json(),
        environment={**host_environment(), **evaluator.environment},
        budget=recipe.budget,
        rows=tuple(rows),
        scale=scale,
        refused=list_refused(
            [("teacher", teacher), *baselines, *((a.name, a.made) for a in attempts), ("student", standing)], evaluator
        ),
        agreement=builder.task.agreement,
        verdict=conclude(
            rows,
            recipe.budget,
            scale=scale,
            speedup=lambda one, other: raced_speedup(found, evaluator, seconds, one, other),
            is_quiet=not doubts,
        ),
        warnings=(
            *find_warnings(rows, scale=scale, is_trained_here=builder.trains_teacher(teacher)),
            *not_clean(doubts, evaluator.url),
        ),
    )
    best = next(entry.variant for entry in found if entry.name == report.verdict.best)
    chosen = operating_points.choose(best, teacher, evaluator, builder, cache)
    read_as = builder.describe(teacher)
    told = thresholds.describe(chosen, len(builder.data.validation)) if chosen else ""
    of_set = () if builder.recovery is None else builder.recovery.notes
    report = replace(report, notes=tuple(note for note in (*of_set, read_as, told) if note))
    cargo = bundle.collect(best, evaluator, builder, chosen)
    if distributed.is_main():
        report.write(out)
        with doing(progress, "drawing the report"):
            html.write(report, out)
        if not standing.is_onnx:
            plan.copy_saved(standing.step.folder, out / plan.FOLDER)
        with doing(progress, "writing the bundle"):
            written = bundle.bundle(out / "bundle", cargo, report, profile)
        progress.say(bundle.signature(out / "bundle", written))
    distributed.wait()
    took = time.perf_counter() - started
    outside = took - cache.seconds_making
    checking = f"{cache.seconds_checking:.1f} s of it to check kept ones"
    progress.say(f"done in {took:.0f} s; {outside:.1f} s outside its steps, {checking}")
    return report


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


def _try(
    stage: Stage,
    start: CachedModel,
    standing: CachedModel,
    teacher: CachedModel,
    builder: ModelBuilder,
    evaluator: Evaluator,
    comparer: Comparer,
    progress: Progress,
) -> list[Attempt]:
    """Try ``stage`` and, while the gate says that it cost too much, milder settings of it."""
    attempts: list[Attempt] = []
    setting: Stage | None = stage
    while setting is not None:
        name = stage.name if not attempts else f"{stage.name} {len(attempts) + 1}"
        progress.say(name)
        made = builder.attempt(setting, start, teacher, evaluator.target(start))
        for note in made.notes[:MOST_NOTES]:
            progress.say(f"  {note}")
        if len(made.notes) > MOST_NOTES:
            progress.say(f"  and {len(made.notes) - MOST_NOTES} more parts left alone; the report names them")
        milder = setting.softer() if len(attempts) < stage.most_softenings else None
        with evaluator.pool.open():
            compared = comparer.compare(made, standing)
            decision = _judge(made, compared, builder, comparer.teacher_accuracy, can_soften=milder is not None)
        form = compared.after.form if compared else None
        attempts.append(Attempt(name=name, stage=setting, made=made, decision=decision, form=form))
        progress.say(f"  {decision.verdict}: {decision.reason}")
        setting = milder if decision.verdict == "softened" else None
    return attempts


def _judge(
    made: CachedModel, compared: Comparison | None, builder: ModelBuilder, teacher: float, *, can_soften: bool
) -> Decision:
    if compared is None and made.changed:
        return Decision(verdict="rejected", reason="no runtime of the profile takes it")
    if compared is None:
        return Decision(verdict="rejected", reason="; ".join(["left the model as it was", *made.notes[:2]]))
    decision = decide(
        compared.before,
        compared.after,
        teacher,
        builder.recipe.budget,
        can_soften=can_soften,
        speedup=compared.speedup,
        scale=builder.task.full_scale,
        drop_interval=compared.drop,
        samples=compared.samples,
    )
    doubt = f"; timed in doubt: {compared.doubts[0]}" if compared.doubts else ""
    return replace(decision, reason=decision.reason + doubt)
