"""Names in a recipe, resolved: what they stand for is fetched and pinned, and what comes with it fills what is not said."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.data import DATA
from compress.execution import distributed
from compress.execution.progress import Progress
from compress.models.factory import factory
from compress.models.hub.records import Found, ModelFacts, kind_of
from compress.models.hub.resolve import Resolver
from compress.recipe.spec import AlsoSpec, BaselineSpec, Recipe, TeacherSpec, Use
from compress.recipe.student import StudentSpec
from profiles.errors import UserError

GROUPS = (("size", "short_side", "crop"), ("interpolation",), ("mean", "deviation", "order", "scale"))
"""Options of data that are filled in together: where a recipe says one of them, it means the others too."""


def resolve_names(recipe: Recipe, progress: Progress) -> Recipe:
    """Return the recipe with files and factories in the place of names, and what comes with them in the data's options.

    Raises:
        UserError: names that do not exist or cannot be had, and bytes that are not those of the recipe's lock; all of them.
    """
    if recipe.names or not has_names(recipe):
        return recipe
    if not distributed.is_main():
        distributed.wait()  # the main process fetches
    file = Path(recipe.source)
    resolver = Resolver(recipe=file if file.suffix == ".toml" else None, say=progress.say)
    found, faults = _resolved(recipe, resolver)
    if faults:
        raise UserError(*faults)
    if distributed.is_main():
        resolver.save()
        distributed.wait()
    return _with_data(found, progress)


def describe_teacher(recipe: Recipe) -> str:
    """Word what the teacher is, and which weights it has or gets."""
    teacher, found = recipe.teacher, recipe.names.get("teacher")
    if found is not None:
        return f"teacher: {found.pin.model}, weights of {found.about}"
    if teacher.is_onnx:
        return f"teacher: {teacher.model}"
    if teacher.weights is not None:
        return f"teacher: {teacher.model}, weights {teacher.weights}"
    hint = "; pretrained = true takes the published weights" if kind_of(teacher.model) else ""
    return f"teacher: {teacher.model}, random weights, trained here for {teacher.epochs} epochs{hint}"


def stated(recipe: Recipe) -> dict[str, Any]:
    """Return what a bundle states of the names that its model began with."""
    weights = {
        role: {
            "model": found.pin.model,
            "source": found.pin.source,
            "revision": found.pin.revision,
            "sha256": {file.name: file.sha256 for file in found.pin.files},
            **found.facts.about,
        }
        for role, found in recipe.names.items()
    }
    return {"weights": weights} if weights else {}


def has_names(recipe: Recipe) -> bool:
    """Whether a recipe names weights that a run has to look up or fetch."""
    teachers: list[TeacherSpec | AlsoSpec | BaselineSpec] = [recipe.teacher, *recipe.teacher.also, *recipe.baselines]
    return recipe.student.is_published or any(
        each.pretrained or each.revision or each.sha256 or "://" in file_of(each.weights) for each in teachers
    )


def file_of(weights: Any) -> str:
    """Return the file or address of weights as a recipe gives them; empty without any."""
    return str(getattr(weights, "file", weights) or "")


def _resolved(recipe: Recipe, resolver: Resolver) -> tuple[Recipe, list[str]]:
    faults: list[str] = []
    names: dict[str, Found] = {}

    def teacher(spec: Any, role: str) -> Any:
        try:
            if spec.pretrained or spec.revision:
                names[role] = found = resolver.model(spec.model, spec.arguments, spec.revision)
                return replace(spec, model=found.factory, arguments=found.arguments)
            if spec.weights is not None and (spec.sha256 or "://" in file_of(spec.weights)):
                return replace(spec, weights=resolver.weights(spec.weights, spec.sha256))
        except UserError as error:
            faults.extend(error.faults)
        return spec

    first = teacher(recipe.teacher, "teacher")
    also = tuple(teacher(each, f"also {number}") for number, each in enumerate(recipe.teacher.also))
    baselines = tuple(teacher(each, f"baseline {number}") for number, each in enumerate(recipe.baselines))
    student = recipe.student
    if student.is_published:
        student = _student(student, resolver, names, faults)
    elif student.model == recipe.teacher.model and "teacher" in names:  # from = "teacher"
        begins = names["teacher"].arguments
        between = None if student.between is None else {**begins, **student.between}
        student = replace(student, model=first.model, arguments={**begins, **student.arguments}, between=between)
    found = {"teacher": replace(first, also=also), "student": student, "baselines": baselines, "names": names}
    return replace(recipe, **found), faults


def _student(student: StudentSpec, resolver: Resolver, names: dict[str, Found], faults: list[str]) -> StudentSpec:
    """Resolve the published weights of a student."""
    try:
        names["student"] = found = resolver.model(student.model, student.arguments, student.revision)
    except UserError as error:
        faults.extend(error.faults)
        return student
    return replace(student, model=found.factory, arguments=found.arguments)


def _with_data(recipe: Recipe, progress: Progress) -> Recipe:
    """Fill in what the recipe does not say of the data by what comes with the teacher's weights, or else the student's."""
    teacher = recipe.names.get("teacher")
    found = teacher if teacher or recipe.teacher.weights is not None else recipe.names.get("student")
    if found is None:
        return recipe
    wanted = {key: value for key, value in options_of(found.facts, recipe.data.arguments).items() if value}
    if not wanted:
        return recipe
    words = ", ".join(f"{key} = {_toml(value)}" for key, value in wanted.items())
    if recipe.data.use not in DATA:
        progress.say(f"data: {found.pin.model} was trained with {words}; {recipe.data.use} has to give the same")
        return recipe
    taken = inspect.signature(factory(DATA[recipe.data.use])).parameters
    filled, differ = dict[str, Any](), dict[str, Any]()
    for group in GROUPS:
        said = [key for key in group if key in recipe.data.arguments]
        for key in (key for key in group if key in wanted and key in taken):
            if key in recipe.data.arguments:
                differ |= {key: wanted[key]} if not _same(recipe.data.arguments[key], wanted[key]) else {}
            elif not said or said == ["size"]:
                filled[key] = wanted[key]
    if filled:
        words = ", ".join(f"{key} = {_toml(value)}" for key, value in filled.items())
        progress.say(f"data: {words}, which come with {found.pin.model}")
    if differ:
        words = ", ".join(f"{key} = {_toml(value)}" for key, value in differ.items())
        progress.say(f"data: as the recipe says, though {found.pin.model} was trained with {words}")
    return replace(recipe, data=Use(use=recipe.data.use, arguments={**recipe.data.arguments, **filled}))


def options_of(facts: ModelFacts, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what comes with weights as options of data; ``short_side`` is for the size that ``said`` has, if any."""
    options: dict[str, Any] = {"size": None if facts.size is None else _side(facts.size), "short_side": facts.short_side}
    given = said.get("size")
    if facts.size is not None and facts.short_side is not None and given is not None:
        side = min(given) if isinstance(given, list | tuple) else given
        options["short_side"] = round(facts.short_side * side / min(facts.size)) if isinstance(side, int) else None
    options |= {"crop": facts.crop, "interpolation": facts.interpolation}
    return {**options, "mean": list(facts.mean), "deviation": list(facts.deviation)}


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _same(said: Any, wanted: Any) -> bool:
    if isinstance(wanted, list) and isinstance(said, list | tuple):
        return len(said) == len(wanted) and all(abs(a - b) < 1e-3 for a, b in zip(said, wanted, strict=True))
    return bool(said == wanted)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
