"""Parse a recipe: TOML in, one frozen record out, or every fault in it at once with file and key."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.data import DATA
from compress.data.options import check_options, fill_paths, option_faults
from compress.methods.distillation.loss_specs import RESERVED, losses
from compress.methods.quantization.calibration_selection import CalibrationSpec
from compress.models import (
    factory,
    resnet20,  # noqa: F401  # the built-in models are part of what a recipe can name
)
from compress.recipe.fields import build, keys
from compress.recipe.inputs import SEQUENCE_LOSSES, parse_inputs
from compress.recipe.recovery import parse_recovery
from compress.recipe.search import parse_search
from compress.recipe.spec import (
    Baselines,
    Budget,
    Measure,
    Plain,
    Recipe,
    RecoveryTable,
    TaskTable,
    TeacherSpec,
    Use,
)
from compress.recipe.student import StudentTable, parse_student
from compress.recipe.teachers import model_reference, parse_baselines, parse_teacher
from compress.stages import stages
from compress.stages.base import Stage
from compress.tasks import TASKS
from profiles.errors import UserError, unknown
from profiles.tables import load_object, with_entry_points
from profiles.toml import read_toml, table_of, tables_of

FOLDER = Path(__file__).parent / "built_in"
TABLES: dict[str, Any] = {
    "task": TaskTable,
    "teacher": TeacherSpec,
    "student": StudentTable,
    "budget": Budget,
    "measure": Measure,
    "calibration": CalibrationSpec,
    "recovery": RecoveryTable,
    "baselines": Baselines,
}
"""The tables of a recipe, by what each is read into; beside them ``[[stage]]`` and the fields of ``Plain``."""

FREE = ("input", "state")
"""Tables whose keys are names of the model's own."""

KEYS = (*TABLES, *FREE, "stage", "search", *keys(Plain))
TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def built_in() -> list[str]:
    """List the names of the built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(given: str) -> Recipe:
    """Read the recipe in a file, or the built-in one of that name.

    Raises:
        UserError: there is none, or it has faults; all of them.
    """
    table, name, source = read_table(given)
    return parse(table, name=name, source=source)


def read_table(given: str) -> tuple[dict[str, Any], str, str]:
    """Read the table of the recipe in a file, or of the built-in one of that name; return it, its name and its source.

    Raises:
        UserError: there is none, or it is no TOML.
    """
    path = FOLDER / f"{given}.toml" if given in built_in() else Path(given)
    if not path.is_file():
        if "/" in given or given.endswith(".toml"):
            raise UserError(f"recipe {given}: no such file")
        raise UserError(unknown("recipe", given, built_in()) + "; or give the path of a .toml file")
    return read_toml(path), path.stem, str(path)


def parse(table: Mapping[str, Any], *, name: str, source: str) -> Recipe:
    """Build the recipe of a parsed TOML table.

    Raises:
        UserError: every fault in it, each with the file and the key.
    """
    faults: list[str] = []
    faults += [unknown("key", key, KEYS, source) for key in table if key not in KEYS]
    table = _shaped(table, source, faults)
    task, data = _task(table.get("task", {}), source, faults)
    teacher = parse_teacher(table.get("teacher", {}), source, faults)
    taught_by = None if teacher is None else (teacher.model, teacher.arguments)
    given = table.get("student", {"from": "teacher"})
    student = parse_student(given, taught_by, lambda model: model_reference(model, Path(source).parent), source, faults)
    budget = build(Budget, table.get("budget", {}), f"{source}: [budget]", faults)
    usual = {**(SEQUENCE_LOSSES if table.get("state") else {}), **_usual_losses(task)}
    chain = [
        _stage(entry, f"{source}: [[stage]] {i + 1}", Path(source).parent, usual, faults)
        for i, entry in enumerate(table.get("stage", []))
    ]
    faults += _order(chain, source)
    plain = build(Plain, {key: table[key] for key in keys(Plain) if key in table}, f"{source}:", faults)
    faults += [] if plain is None else _tracker_faults(plain.trackers, source)
    if teacher is not None and teacher.is_onnx:
        faults += [_untrainable(stage, number, source) for number, stage in enumerate(chain, 1) if stage is not None]
        if "student" in table:
            faults.append(f"{source}: [student] cannot be made from an .onnx file; leave it out")
    measure = build(Measure, table.get("measure", {}), f"{source}: [measure]", faults)
    calibration = build(CalibrationSpec, table.get("calibration", {}), f"{source}: [calibration]", faults)
    if calibration is not None and calibration.select == "all" and "samples" in table.get("calibration", {}):
        faults.append(f"{source}: [calibration] samples goes with a select other than 'all'; write select = \"random\"")
    if "search" in table:
        parse_search(table["search"], source, faults)
    answers = teacher is not None and teacher.engine is not None
    inputs, states = parse_inputs(table, source, answers=answers, faults=faults)
    baselines = parse_baselines(table.get("baselines", {}), source, faults)
    recovery = parse_recovery(
        table.get("recovery"),
        lambda given, where: _use(given, "data", sources(), where, source, faults),
        chain,
        source,
        faults,
    )
    if faults:
        raise UserError(*faults)
    assert task and data and teacher and student and budget and measure and calibration and plain
    return Recipe(
        name=name,
        source=source,
        seed=plain.seed,
        task=task,
        data=data,
        teacher=teacher,
        student=student,
        budget=budget,
        measure=measure,
        calibration=calibration,
        stages=tuple(stage for stage in chain if stage is not None),
        trackers=plain.trackers,
        baselines=baselines,
        recovery=recovery,
        inputs=inputs,
        states=states,
    )


def _shaped(table: Mapping[str, Any], source: str, faults: list[str]) -> dict[str, Any]:
    """Return the recipe's tables; in place of what is no table comes an empty one, with a fault."""
    kept = dict(table)
    for name in (*TABLES, *FREE):
        if name in table:
            kept[name] = table_of(table[name], f"{source}: [{name}]", faults)
    kept["stage"] = tables_of(table.get("stage", []), f"{source}: [[stage]]", faults)
    return kept


def instantiate(use: Use, table: Mapping[str, str], where: str) -> Any:
    """Call what a name of ``table`` or a ``module:callable`` stands for with a recipe's arguments.

    Raises:
        UserError: names, types or bounds that it does not take; all of them, with the nearest names.
    """
    call = factory.factory(table.get(use.use, use.use))
    return call(**check_options(call, use.arguments, f"{where} {use.use}"))


def tasks() -> dict[str, str]:
    """Return the table of tasks, with those that installed packages add."""
    return with_entry_points(TASKS, "edge_compress.tasks")


def sources() -> dict[str, str]:
    """Return the table of data sources, with those that installed packages add."""
    return with_entry_points(DATA, "edge_compress.data")


def _order(chain: Sequence[Stage | None], source: str) -> list[str]:
    """Find stages that cannot stand where they do, before hours of training."""
    faults: list[str] = []
    known = [stage for stage in chain if stage is not None]
    for number, stage in enumerate(known, 1):
        others = sorted({other.name for other in known} & set(stage.excludes))
        where = f"{source}: [[stage]] {number} ({stage.name})"
        faults += [f"{where} and {other} cannot stand in one recipe: {stage.excludes[other]}" for other in others]
        if stage.is_last and number < len(known) and not others:
            faults.append(f"{where} must be the last stage; {known[number].name} follows it")
    return faults


def _untrainable(stage: Stage, number: int, source: str) -> str:
    return (
        f"{source}: [[stage]] {number} ({stage.name}) trains, and an .onnx model has no source code to train; remove it "
        "(post-training int8 is in every report), or give the model's callable"
    )


def _tracker_faults(names: Sequence[str], source: str) -> list[str]:
    faults: list[str] = []
    for name in names:
        if name not in TRACKERS:
            faults.append(unknown("tracker", name, TRACKERS, source))
        elif importlib.util.find_spec(TRACKERS[name]) is None:
            faults.append(f"{source}: tracker {name!r} is not installed; pip install {TRACKERS[name]}")
    return faults


def _task(table: Mapping[str, Any], source: str, faults: list[str]) -> tuple[Use | None, Use | None]:
    where = f"{source}: [task]"
    faults += [unknown("key", key, keys(TaskTable), where) for key in table if key not in keys(TaskTable)]
    task = _use(table.get("kind", "classification"), "task", tasks(), f"{where} kind", source, faults)
    if "data" not in table:
        faults.append(f"{where} data is missing; a name ({', '.join(sources())}), a table with 'use', or module:callable")
        return task, None
    return task, _use(table["data"], "data", sources(), f"{where} data", source, faults)


def _use(given: Any, kind: str, table: Mapping[str, str], where: str, source: str, faults: list[str]) -> Use | None:
    entry = {"use": given} if isinstance(given, str) else given
    if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
        faults.append(f"{where} is a name or a table with 'use'; given: {given!r}")
        return None
    name = entry["use"]
    if name not in table and ":" not in name:
        faults.append(unknown(kind, name, table, where) + "; or module:callable")
        return None
    folder = Path(source).parent
    reference = factory.relative_to(name, folder)
    options = {key: value for key, value in entry.items() if key != "use"}
    return Use(use=reference, arguments=_options(table.get(name, reference), options, folder, f"{where} {name}", faults))


def _options(reference: str, options: Mapping[str, Any], folder: Path, where: str, faults: list[str]) -> dict[str, Any]:
    """Check the options of a task or data source, and fill in their paths."""
    call: Callable[..., Any] | None = None
    with contextlib.suppress(Exception):  # of code that does not import, the run says so when it needs it
        call = factory.factory(reference)
    try:
        filled = fill_paths(call, options, folder, where)
    except UserError as error:
        faults += error.faults
        return dict(options)
    if call is not None:
        faults += option_faults(call, filled, where)
    return filled


def _usual_losses(task: Use | None) -> Mapping[str, Any]:
    """Return what a task says of the losses of stages that name none."""
    with contextlib.suppress(Exception):  # of code that does not import, the run says so when it needs it
        if task is not None:
            kind: Any = factory.factory(tasks().get(task.use, task.use))
            return dict(kind.usual_losses(task.arguments))
    return {}


def _stage(entry: Mapping[str, Any], where: str, folder: Path, usual: Mapping[str, Any], faults: list[str]) -> Stage | None:
    name = entry.get("use")
    if not isinstance(name, str):
        faults.append(f"{where} use is missing; known stages: {', '.join(sorted(stages()))}")
        return None
    if name not in stages():
        faults.append(unknown("stage", name, stages(), where))
        return None
    settings = {key: value for key, value in entry.items() if key != "use"}
    if isinstance(settings.get("losses"), list):
        settings["losses"] = [_loss(loss, folder, f"{where} ({name}) losses", faults) for loss in settings["losses"]]
    kind = load_object(stages()[name])
    chosen = "distill" if name == "distill" else "recovery"
    if "losses" not in settings and chosen in usual and any(each.name == "losses" for each in fields(kind)):
        settings["losses"] = list(usual[chosen])
    stage: Stage | None = build(kind, settings, f"{where} ({name})", faults)
    return stage


def _loss(entry: Any, folder: Path, where: str, faults: list[str]) -> Any:
    """Fill in the paths in one entry of ``losses``; all else is checked with the stage."""
    if isinstance(entry, str):
        return factory.relative_to(entry, folder)
    if isinstance(entry, Mapping) and isinstance(entry.get("use"), str):
        entry = {**entry, "use": factory.relative_to(entry["use"], folder)}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("use"), str) or entry["use"] not in losses():
        return entry
    options = {key: value for key, value in entry.items() if key not in RESERVED}
    try:
        return {**entry, **fill_paths(load_object(losses()[entry["use"]]), options, folder, f"{where} {entry['use']}")}
    except UserError as error:
        faults += error.faults
        return entry
