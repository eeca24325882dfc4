"""A run, from a recipe or from objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from compress.api.objects import SOURCE, Data, Model, data_entry, default_name, given_modules
from compress.api.stage_settings import StageSettings, stage_entry
from compress.execution.cache import steps_folder
from compress.execution.progress import Progress, progress_here
from compress.pipeline import run as pipeline
from compress.pipeline import several_devices
from compress.pipeline.target import resolve as resolve_target
from compress.pipeline.target import resolve_all
from compress.recipe.parse import load as load_recipe
from compress.recipe.parse import parse
from compress.recipe.spec import Recipe
from compress.report.devices_record import DevicesReport
from compress.report.record import Report
from profiles.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEVICES = "devices"
"""What the folder of a run on several devices is called, in a profile's place."""
T = TypeVar("T")


class RunOptions(TypedDict, total=False):
    """Options of ``run`` that one device and several take alike."""

    teacher: Model | None
    data: Data | None
    stages: Sequence[StageSettings | str | Mapping[str, Any]] | None
    student: Model | None
    task: str | Mapping[str, Any]
    accuracy_drop_points: float | None
    latency_ms_p50: float | None
    size_mib: float | None
    stored_mib: float | None
    peak_mib: float | None
    load_ms: float | None
    total_ms: float | None
    seed: int
    measure: Mapping[str, float] | None
    calibration: Mapping[str, Any] | None
    recovery: Mapping[str, Any] | None
    sizes: Mapping[str, Any] | None
    states: Mapping[str, Any] | None
    name: str | None
    engines: Sequence[str] | None
    out: str | Path | None
    trial: int | None
    join: str | None
    until: str | None
    lock_clocks: bool
    quiet_seconds: float | None
    measure_again: bool
    progress: Progress | None


@overload
def run(recipe: str | Path | None = ..., *, device: str = ..., **options: Unpack[RunOptions]) -> Report: ...


@overload
def run(
    recipe: str | Path | None = ...,
    *,
    device: list[str] | tuple[str, ...],
    train_each: bool = ...,
    **options: Unpack[RunOptions],
) -> DevicesReport: ...


def run(
    recipe: str | Path | None = None,
    *,
    teacher: Model | None = None,
    data: Data | None = None,
    stages: Sequence[StageSettings | str | Mapping[str, Any]] | None = None,
    student: Model | None = None,
    task: str | Mapping[str, Any] = "classification",
    accuracy_drop_points: float | None = None,
    latency_ms_p50: float | None = None,
    size_mib: float | None = None,
    stored_mib: float | None = None,
    peak_mib: float | None = None,
    load_ms: float | None = None,
    total_ms: float | None = None,
    seed: int = 0,
    measure: Mapping[str, float] | None = None,
    calibration: Mapping[str, Any] | None = None,
    recovery: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    states: Mapping[str, Any] | None = None,
    name: str | None = None,
    device: str | list[str] | tuple[str, ...] = "cpu",
    engines: Sequence[str] | None = None,
    out: str | Path | None = None,
    trial: int | None = None,
    join: str | None = None,
    until: str | None = None,
    lock_clocks: bool = False,
    quiet_seconds: float | None = None,
    measure_again: bool = False,
    train_each: bool = False,
    progress: Progress | None = None,
) -> Report | DevicesReport:
    """Take a model to a measured, gated student and a bundle, from a recipe or from objects.

    Args:
        recipe: a TOML file, or the name of a built-in recipe; then nothing up to ``name`` is given.
        teacher: a trained module, or ``package.module:callable``, or a recipe's [teacher] table.
        data: ``Splits``, a pair of inputs (samples, ...) and labels (samples,), a PyTorch dataset, a table of such by
            ``train``, ``validation`` and ``test``, or what a recipe's ``data`` may be.
        stages: in order, such as ``[compress.Distill(student=small), compress.Quantize()]``.
        student: as in ``Distill``; for runs that begin with another stage.
        accuracy_drop_points, latency_ms_p50, size_mib, stored_mib, peak_mib, load_ms, total_ms: the budget: points of the
            metric below the teacher, milliseconds, MiB of the engine, in the bundle, and resident at once, milliseconds of
            loading, and from a raw sample to its answer.
        measure, calibration, recovery: what a recipe has under these names.
        sizes, states: what a recipe has under [input] and [state].
        name: of the run; the teacher's class in lower case without one.
        device: ``PROFILE[@URL]``, or several: what they share is made once, and the result is a ``DevicesReport``.
        engines: the runtimes to race, in the place of the profile's.
        out: where report, model and bundle go; ``runs/NAME-PROFILE`` without one, ``runs/NAME-devices`` of several.
        trial: of a search of the recipe, whose recipe is run in its place; ``join`` is the search's storage.
        until: the last stage to run.
        lock_clocks: hold the device's clocks while it measures.
        quiet_seconds: how long a race waits for a device that others use; without, as the recipe says, else 60.
        measure_again: time again what exists, and train nothing.
        train_each: of several devices, each trains a student of its own where one of an earlier device would do.
        progress: where it tells how far it is; standard error, or the notebook's output.

    Returns:
        The report; ``out`` holds it as report.json and report.html, the student under ``model/``, and ``bundle/``.

    Raises:
        UserError: everything that does not fit, at once.

    Example:
        >>> report = compress.run(
        ...     teacher=teacher,
        ...     data=splits,
        ...     stages=[
        ...         compress.Distill(student=small, epochs=8, batch_size=32, losses=["task", {"use": gap, "weight": 0.5}]),
        ...         compress.Quantize(epochs=0),
        ...     ],
        ...     accuracy_drop_points=5.0,
        ...     measure={"seconds": 0.1, "gate_seconds": 0.1},
        ...     name="blobs",
        ...     engines=["onnxruntime"],
        ... )
        >>> report.teacher.name
        'teacher/onnxruntime/fp32'
        >>> report.verdict.best in [row.name for row in report.rows]
        True
    """
    how: dict[str, Any] = {
        "engines": engines,
        "lock_clocks": lock_clocks,
        "measure_again": measure_again,
        "quiet_seconds": quiet_seconds,
        "train_each": train_each,
    }
    asked: dict[str, Any] = {"teacher": teacher, "data": data, "stages": stages, "student": student, "measure": measure}
    budget = {
        "accuracy_drop_points": accuracy_drop_points,
        "latency_ms_p50": latency_ms_p50,
        "size_mib": size_mib,
        "stored_mib": stored_mib,
        "peak_mib": peak_mib,
        "load_ms": load_ms,
        "total_ms": total_ms,
    }
    asked |= {"calibration": calibration, "recovery": recovery, "sizes": sizes, "states": states, "name": name, **budget}
    if recipe is not None:
        beside = [key for key, value in asked.items() if value is not None]
        if beside:
            raise UserError(f"{SOURCE}: a recipe says it all; leave out {', '.join(beside)}, or the recipe")
        return _run(lambda: recipe_of(str(recipe), trial, device, join), device, out, until, progress, **how)
    if trial is not None:
        raise UserError(f"{SOURCE}: trial = {trial} is of a search of a recipe; give that recipe")
    missing = [f"{SOURCE}: {key} is missing; or give a recipe" for key in ("teacher", "data") if asked[key] is None]
    if teacher is None or data is None:
        raise UserError(*missing)
    with given_modules() as modules:

        def objects() -> Recipe:
            table: dict[str, Any] = {
                "task": {"kind": task, "data": data_entry(data, seed)},
                "teacher": modules.teacher(teacher),
                "budget": {key: value for key, value in budget.items() if value is not None},
                "stage": [stage_entry(stage) for stage in stages or ()],
                "measure": dict(measure or {}),
                "calibration": dict(calibration or {}),
                **({} if recovery is None else {"recovery": dict(recovery)}),
                "input": dict(sizes or {}),
                "state": dict(states or {}),
                "seed": seed,
            }
            students = [s for s in (student, *(getattr(stage, "student", None) for stage in stages or ())) if s is not None]
            if len(students) > 1:
                raise UserError(f"{SOURCE}: {len(students)} students; one is given, to run or to one Distill")
            if students:
                table["student"] = modules.student(students[0])
            return parse(table, name=name or default_name(teacher), source=SOURCE)

        return _run(objects, device, out, until, progress, **how)


def recipe_of(given: str, trial: int | None, device: str | Sequence[str], join: str | None) -> Recipe:
    """Read a recipe, or that of a trial of its search on a device.

    Raises:
        UserError: there is none, or it has faults.
    """
    if trial is None:
        return load_recipe(given)
    if not isinstance(device, str):
        raise UserError(f"--trial {trial} is of the search on one device; given: {', '.join(device)}")
    from compress.api.search import trial_recipe

    return trial_recipe(given, trial, device, join)


def resolve(recipe: Callable[[], Recipe], where: Callable[[], T]) -> tuple[Recipe, T]:
    """Find out what is asked and where; the faults of both come together.

    Raises:
        UserError: everything wrong with the recipe and the devices.
    """
    faults: list[str] = []
    asked: Recipe | None = None
    try:
        asked = recipe()
    except UserError as error:
        faults += error.faults
    try:
        found = where()
    except UserError as error:
        raise UserError(*faults, *error.faults) from None
    if asked is None:
        raise UserError(*faults)
    return asked, found


def default_folder(recipe: str, profile: str) -> Path:
    """Name the folder that a run leaves its results in unless another is given."""
    return Path("runs") / f"{recipe}-{profile}"


def _run(
    recipe: Callable[[], Recipe],
    device: str | Sequence[str],
    out: str | Path | None,
    until: str | None,
    progress: Progress | None,
    *,
    engines: Sequence[str] | None,
    lock_clocks: bool,
    quiet_seconds: float | None,
    measure_again: bool,
    train_each: bool,
) -> Report | DevicesReport:
    progress = progress or progress_here()
    how = {"lock_clocks": lock_clocks, "measure_again": measure_again}
    if isinstance(device, str):
        asked, target = resolve(recipe, partial(resolve_target, device, engines))
        asked = _quieted(asked, quiet_seconds)
        target.tell_warnings(progress.say)
        folder = Path(out) if out is not None else default_folder(asked.name, target.profile.name)
        return pipeline.run(asked, target.profile, target.device, folder, steps_folder(), progress, until, **how)
    if not device:
        raise UserError("device: one or more of PROFILE[@URL]; given: none")
    asked, devices = resolve(recipe, partial(resolve_all, device, engines))
    asked = _quieted(asked, quiet_seconds)
    for each in devices:
        if each.target is not None:
            each.target.tell_warnings(progress.say)
    folder = Path(out) if out is not None else default_folder(asked.name, DEVICES)
    return several_devices.run(asked, devices, folder, steps_folder(), progress, until, train_each=train_each, **how)


def _quieted(recipe: Recipe, quiet_seconds: float | None) -> Recipe:
    """Return the recipe with another time to wait for a quiet device, where one is given."""
    if quiet_seconds is None:
        return recipe
    return replace(recipe, measure=replace(recipe.measure, quiet_seconds=quiet_seconds))
