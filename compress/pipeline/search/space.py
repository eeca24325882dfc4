"""What a search varies, as values in a recipe's table; and the space that follows from a recipe without [search]."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from compress.recipe.parse import parse
from compress.recipe.search import RUNTIMES, STAGES, Dimension, SearchSpec
from compress.recipe.spec import Recipe
from profiles.device import DeviceProfile
from profiles.errors import UserError

STUDENT = "student"
STUDENT_KEYS = ("model", "from", "width", "depth", "inherit")
TABLES = (STUDENT, "calibration")
WIDTHS, DEPTHS = (0.5, 0.625, 0.75, 1.0), (0.34, 0.67, 1.0)
FIELDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "prune": {"speed_up": (1.3, 1.6, 2.0, 2.5), "latency_ms": (), "ratio": (0.2, 0.3, 0.4, 0.5)},
    "low_rank": {"keep": (0.35, 0.5, 0.65)},
    "quantize": {"attempt": ("post_training", "trained")},
    "pack": {"bits": (3, 4, 6)},
}
"""What varies without [search]; of ``prune`` the budget that the recipe has, or else the ratio."""
MOST_OPTIONAL = 4


class Suggests(Protocol):
    """What chooses values: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def suggest(trial: Suggests, space: Sequence[Dimension], base: Mapping[str, Any]) -> dict[str, Any]:
    """Choose a value for each dimension that counts: those of stages that the trial leaves out are not asked.

    Returns:
        The recipe's table with the values in it.
    """
    table = copy.deepcopy(dict(base))
    for dimension in sorted(space, key=lambda d: d.key != STAGES):
        if dimension.key == RUNTIMES or counts(table, dimension.key):
            put(table, dimension.key, _chosen(trial, dimension))
    return table


def counts(table: Mapping[str, Any], key: str) -> bool:
    """Whether the recipe in ``table`` has what ``key`` names: a stage of that name, or a table."""
    name = key.partition(".")[0]
    return name in (*TABLES, STAGES, RUNTIMES) or any(entry.get("use") == name for entry in table.get("stage", ()))


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set what ``key`` names in a recipe's table to ``value``, in place.

    Raises:
        UserError: there is no such stage, or no such entry in a list.
    """
    name, _, rest = key.partition(".")
    if key == STAGES:
        known = {entry["use"]: entry for entry in table.get("stage", ())}
        table["stage"] = [copy.deepcopy(known.get(use, {"use": use})) for use in value]
    elif key == RUNTIMES:
        table.setdefault("search", {})[RUNTIMES] = value
    elif name == STUDENT:
        student = table.setdefault(STUDENT, {"from": "teacher"})
        _put(student if rest.partition(".")[0] in STUDENT_KEYS else student.setdefault("arguments", {}), rest, value, key)
    elif name in TABLES:
        _put(table.setdefault(name, {}), rest, value, key)
    else:
        entries = [entry for entry in table.get("stage", ()) if entry.get("use") == name]
        if not entries:
            raise UserError(f"[search] {key}: the recipe has no stage {name!r}; name it in stages, or leave this out")
        for entry in entries:
            _put(entry, rest, value, key)


def _put(holder: dict[str, Any], path: str, value: Any, key: str) -> None:
    """Set the entry at a dotted path; an entry of a list is named by its ``use``."""
    first, _, rest = path.partition(".")
    if not first:
        raise UserError(f"[search] {key}: names a table; name what varies in it, such as {key}.epochs")
    if not rest:
        holder[first] = copy.deepcopy(value)
        return
    inner = holder.setdefault(first, {})
    if isinstance(inner, list):
        second, _, rest = rest.partition(".")
        holder[first] = inner = [{"use": each} if isinstance(each, str) else each for each in inner]
        named = [each for each in inner if each.get("use") == second]
        if not named or not rest:
            raise UserError(
                f"[search] {key}: {first} has {[each.get('use') for each in inner]}; name one, and what varies in it"
            )
        inner, path = named[0], rest
    else:
        path = rest
    if not isinstance(inner, dict):
        raise UserError(f"[search] {key}: {first} is {inner!r}, in which nothing can vary")
    _put(inner, path, value, key)


def value_at(table: Mapping[str, Any], key: str) -> Any:
    """Return what a recipe says for ``key``; None where it says nothing."""
    name, _, rest = key.partition(".")
    if key == STAGES:
        return [entry["use"] for entry in table.get("stage", ())]
    if name == STUDENT:
        student = table.get(STUDENT, {})
        at: Any = student if rest.partition(".")[0] in STUDENT_KEYS else student.get("arguments", {})
    elif name in TABLES:
        at = table.get(name, {})
    else:
        at = next((entry for entry in table.get("stage", ()) if entry.get("use") == name), {})
    for part in rest.split("."):
        if isinstance(at, list):
            at = next((each for each in at if isinstance(each, dict) and each.get("use") == part), None)
        else:
            at = at.get(part) if isinstance(at, Mapping) else None
    return at


def own_values(space: Sequence[Dimension], base: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's own values, and defaults, as parameters of a trial; what lies outside is left open."""
    stages = {stage.name: stage.fields() for stage in recipe.stages}
    values: dict[str, Any] = {}
    for dimension in space:
        if not counts(base, dimension.key):
            continue
        name, _, field = dimension.key.partition(".")
        value = value_at(base, dimension.key)
        value = stages.get(name, {}).get(field) if value is None else value
        if value is not None and dimension.holds(value):
            values[dimension.key] = _coded(value) if dimension.choices else value
    return values


def check_space(space: Sequence[Dimension], base: Mapping[str, Any], name: str, source: str) -> None:
    """Try each value of each dimension in the recipe, alone.

    Raises:
        UserError: nothing varies, or what the recipe cannot say, all at once, each by its key and value.
    """
    if not space:
        raise UserError(
            f"{source}: nothing varies: the recipe has no stage to leave out or to set; name what may in [search]"
        )
    if "search" in base.get(STUDENT, {}):
        raise UserError(
            f"{source}: [student.search] and a search of recipes; name its choices as student.ARGUMENT in [search]"
        )
    faults: list[str] = []
    chains = next((d.choices for d in space if d.key == STAGES), ())
    for dimension in space:
        for value in dimension.examples:
            table = copy.deepcopy(dict(base))
            if not counts(table, dimension.key):
                chain = next((c for c in chains if dimension.key.partition(".")[0] in c), None)
                if chain is not None:
                    put(table, STAGES, chain)
            try:
                put(table, dimension.key, value)
                parse(without_search(table), name=name, source=source)
            except UserError as error:
                words = (
                    error.faults
                    if "[search]" in str(error)
                    else [f"[search] {dimension.key} = {value!r}: {error.faults[0]}"]
                )
                faults += words
    if faults:
        raise UserError(*dict.fromkeys(faults))


def as_recipe(table: Mapping[str, Any], name: str, source: str) -> Recipe:
    """Parse a trial's table."""
    return parse(without_search(table), name=name, source=source)


def without_search(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's table less [search]."""
    return {key: value for key, value in table.items() if key != "search"}


def space_of(spec: SearchSpec | None, base: Mapping[str, Any], profile: DeviceProfile) -> tuple[Dimension, ...]:
    """Return what [search] names, or what follows from the recipe and the profile."""
    if spec is not None and spec.dimensions:
        return spec.dimensions
    names = [entry["use"] for entry in base.get("stage", ())]
    has_int8 = any("int8" in runtime.precisions for runtime in profile.runtimes)
    space = [Dimension(key=STAGES, choices=_chains([n for n in names if has_int8 or n != "quantize"]))]
    student = base.get(STUDENT, {})
    for key, usual in (("width", WIDTHS), ("depth", DEPTHS)):
        if key in student:
            space.append(Dimension(key=f"student.{key}", choices=_with(usual, student[key])))
    for entry in base.get("stage", ()):
        fields = FIELDS.get(entry["use"], {})
        told = [field for field in fields if field in entry] or list(fields)[-1:]
        for field in told[:1]:
            values = _with(fields[field], entry[field]) if field in entry else fields[field]
            space.append(Dimension(key=f"{entry['use']}.{field}", choices=values))
    return tuple(dimension for dimension in space if len(dimension.choices) > 1)


def _chains(names: Sequence[str]) -> tuple[list[str], ...]:
    """Return the recipe's stages, and all that are left where some of the others than distill are left out."""
    optional = [name for name in names if name != "distill"][:MOST_OPTIONAL]
    chains: list[list[str]] = []
    for kept in itertools.product((True, False), repeat=len(optional)):
        left_out = {name for name, keep in zip(optional, kept, strict=True) if not keep}
        chain = [name for name in names if name not in left_out]
        if chain and chain not in chains:
            chains.append(chain)
    return tuple(chains)


def _with(usual: Sequence[Any], own: Any) -> tuple[Any, ...]:
    """Return usual values and the recipe's own, in order."""
    if own in usual:
        return tuple(usual)
    return tuple(sorted([*usual, own])) if isinstance(own, (int, float)) else (*usual, own)


def _chosen(trial: Suggests, dimension: Dimension) -> Any:
    if dimension.choices:
        return json.loads(trial.suggest_categorical(dimension.key, [_coded(choice) for choice in dimension.choices]))
    assert dimension.low is not None and dimension.high is not None
    if dimension.is_whole:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _coded(choice: Any) -> str:
    """Return a choice as text, since Optuna keeps no lists and tables."""
    return json.dumps(choice, sort_keys=True)
