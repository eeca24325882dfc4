"""[search] of a recipe: what may vary, and between what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from profiles.errors import unknown
from profiles.toml import shown

Objective = Literal["accuracy", "latency", "size", "memory", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("accuracy", "latency", "size", "memory", "energy")
SAMPLERS = ("tpe", "nsga2")
PRUNERS = ("none", "median", "halving")
STAGES, RUNTIMES = "stages", "runtimes"
SETTINGS = ("objectives", "sampler", "pruner")


@final
@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One thing that varies: a range of numbers, or choices.

    Attributes:
        key: what it is in the recipe, such as ``prune.speed_up``, ``student.width`` or ``distill.losses.kd.weight``.
        low, high: of a range, both included; whole numbers where both are.
        log: whether the range is searched by its logarithm.
        choices: in place of a range.
    """

    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Return every choice, or both ends of the range."""
        return self.choices or (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of the choices, or within the range."""
        if self.choices:
            return value in self.choices
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low is not None and self.high is not None and bool(self.low <= value <= self.high)


@final
@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What a search varies, and what it looks for.

    Attributes:
        dimensions: what varies; without any a space follows from the recipe and the profile.
        objectives: what makes the front; all but ``accuracy`` are wanted small: ``latency``, ``size`` (of the model in the
            bundle), ``memory`` (the peak of a process that holds the engine) and ``energy`` (where there are power rails).
        sampler: of Optuna: ``tpe`` or ``nsga2``.
        pruner: of Optuna, for accuracy alone: ``median`` or ``halving`` stops trials after a tenth of the epochs.
    """

    dimensions: tuple[Dimension, ...] = ()
    objectives: tuple[Objective, ...] = ("accuracy", "latency")
    sampler: Literal["tpe", "nsga2"] = "tpe"
    pruner: Literal["none", "median", "halving"] = "none"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "dimensions": [[d.key, d.low, d.high, d.log, list(d.choices)] for d in self.dimensions],
            "objectives": list(self.objectives),
            "sampler": self.sampler,
            "pruner": self.pruner,
        }


def parse_search(given: Any, source: str, faults: list[str]) -> SearchSpec | None:
    """Parse the [search] table of a recipe; its faults are added to ``faults``.

    Two numbers are the ends of a range, any other list is of choices; a table says it in full:
    ``{low = 1, high = 8, log = true}`` or ``{choices = [2, 4]}``.

    Example:
        >>> found = parse_search({"prune.speed_up": [1.5, 4.0], "quantize.attempt": ["mixed", "trained"]}, "my.toml", [])
        >>> [(dimension.key, dimension.examples) for dimension in found.dimensions]
        [('prune.speed_up', (1.5, 4.0)), ('quantize.attempt', ('mixed', 'trained'))]
    """
    where = f"{source}: [search]"
    if not isinstance(given, dict):
        faults.append(f"{where} is a table of what may vary; given: {shown(given)}")
        return None
    begun = len(faults)
    objectives = given.get("objectives", list(SearchSpec().objectives))
    if not isinstance(objectives, list) or not objectives or len(set(map(str, objectives))) < len(objectives):
        faults.append(f"{where} objectives: a list of {', '.join(OBJECTIVES)}, each once; given: {shown(objectives)}")
        objectives = []
    faults += [unknown("objective", str(o), OBJECTIVES, where) for o in objectives if o not in OBJECTIVES]
    for key, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if given.get(key, allowed[0]) not in allowed:
            faults.append(unknown(key, str(given[key]), allowed, where))
    if given.get("pruner", "none") != "none" and len(objectives) > 1:
        faults.append(
            f'{where} pruner: Optuna stops trials of one objective only; write objectives = ["accuracy"], or leave it out'
        )
    dimensions = [
        _dimension(key, value, f"{where} {key}", faults) for key, value in _flat(given).items() if key not in SETTINGS
    ]
    if len(faults) > begun:
        return None
    return SearchSpec(
        dimensions=tuple(d for d in dimensions if d is not None),
        objectives=tuple(objectives),
        sampler=given.get("sampler", "tpe"),
        pruner=given.get("pruner", "none"),
    )


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return what varies by its whole key: ``prune.speed_up = ...`` without quotes is a table within a table in TOML."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and not set(value) <= {"low", "high", "log", "choices"}:
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _dimension(key: str, given: Any, where: str, faults: list[str]) -> Dimension | None:
    if isinstance(given, dict):
        if isinstance(given.get("choices"), list) and set(given) == {"choices"}:
            return _choices(key, given["choices"], where, faults)
        low, high, log = given.get("low"), given.get("high"), given.get("log", False)
        if _is_range(low, high, log=log):
            return Dimension(key=key, low=low, high=high, log=log)
        faults.append(f"{where}: low below high, log = true only above 0, or choices; given: {shown(given)}")
        return None
    if not isinstance(given, list):
        faults.append(f"{where}: two numbers, a list of choices, or a table with low and high; given: {shown(given)}")
        return None
    if key not in (STAGES, RUNTIMES) and len(given) == 2 and all(map(_is_number, given)):
        return _dimension(key, {"low": given[0], "high": given[1]}, where, faults)
    if key == STAGES and not all(isinstance(chain, list) for chain in given):
        faults.append(
            f'{where}: a list of lists of stages, such as [["distill"], ["distill", "quantize"]]; given: {shown(given)}'
        )
        return None
    return _choices(key, given, where, faults)


def _choices(key: str, given: Sequence[Any], where: str, faults: list[str]) -> Dimension | None:
    told = {json.dumps(choice, sort_keys=True, default=str) for choice in given}
    if not given or len(told) < len(given):
        faults.append(f"{where}: one choice or more, each once; given: {shown(given)}")
        return None
    return Dimension(key=key, choices=tuple(given))


def _is_range(low: Any, high: Any, *, log: Any) -> bool:
    are_numbers = _is_number(low) and _is_number(high) and isinstance(log, bool)
    return are_numbers and bool(low < high) and not (log and low <= 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
