"""Published or derived figures of a device, each with its kind and source."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from profiles.errors import one_line, unknown
from profiles.toml import shown, table_of

KINDS = ("measured", "published", "derived", "unverified")
"""How sure: timed by us; written by the vendor or others; computed; general knowledge that nobody checked."""

FIGURES = {
    "sms": "streaming multiprocessors",
    "cores": "CPU cores",
    "clock_ghz": "GHz",
    "little_cores": "small CPU cores",
    "little_clock_ghz": "GHz of the small cores",
    "per_core_tflops": "TFLOP/s fp32 of one core",
    "fp32_tflops": "TFLOP/s fp32 (TF32 where the unit has it)",
    "bf16_tflops": "TFLOP/s bf16, dense",
    "fp16_tflops": "TFLOP/s fp16, dense",
    "int8_tops": "TOP/s int8, dense",
    "capacity_gib": "GiB",
    "bandwidth_gb_s": "GB/s",
}
"""What a unit may state, and in what; a multiply-accumulate counts as two operations."""

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Number with its origin.

    Attributes:
        kind: one of ``KINDS``.
        formula: for a derived figure, arithmetic over the other figures of its unit.
    """

    value: float
    kind: str
    source: str
    formula: str = ""


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """Power mode by name, since ids differ between boards and releases; None is unknown or unlimited.

    Attributes:
        sms: multiprocessors left on; an engine tuned with others is not tuned for this mode.
        memory_mhz: cap of the memory clock.
    """

    name: str
    kind: str
    source: str
    default: bool = False
    cpus: int | None = None
    cpu_mhz: int | None = None
    sms: int | None = None
    gpu_mhz: int | None = None
    memory_mhz: int | None = None


Units = Mapping[str, Mapping[str, Figure]]
"""Figures by name, by the part of the device that they describe: ``cpu``, ``gpu``, ``dla``, ``npu``, ``memory``."""


def units(table: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, dict[str, Figure]]:
    """Parse a profile's ``[unit.NAME]`` tables; faults are added to ``faults``."""
    places = {name: f"{where}: [unit.{one_line(name)}]" for name in table}
    return {name: parse_figures(table_of(table[name], place, faults), place, faults) for name, place in places.items()}


def parse_figures(table: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Figure]:
    """Parse the figures of one table; faults are added to ``faults``."""
    faults += [unknown("figure", name, FIGURES, where) for name in table if name not in FIGURES]
    parsed = {name: parse_figure(entry, f"{where} {name}", faults) for name, entry in table.items() if name in FIGURES}
    return {name: each for name, each in parsed.items() if each is not None}


def parse_figure(entry: Any, where: str, faults: list[str]) -> Figure | None:
    """Parse a table like ``{value = 102, kind = "published", source = "..."}``."""
    wrong = _faults(entry, where)
    faults += wrong
    return None if wrong else Figure(**{**entry, "value": float(entry["value"])})


def power_modes(entries: list[Any], where: str, faults: list[str]) -> tuple[PowerMode, ...]:
    """Parse a profile's ``[[power_mode]]`` tables; faults are added to ``faults``."""
    modes = []
    for entry in entries:
        place = f"{where}: power mode {entry.get('name', '')!r}"
        wrong = [unknown("key", key, PowerMode.__dataclass_fields__, place) for key in _not_in(entry, PowerMode)]
        wrong += [f"{place} has no {key}" for key in ("name", "kind", "source") if not entry.get(key)]
        if entry.get("kind", KINDS[0]) not in KINDS:
            wrong.append(unknown("kind", str(entry["kind"]), KINDS, place))
        wrong += [f"{place} {key} is text; given: {shown(entry[key])}" for key in _not_of(entry, ("name", "source"), str)]
        numbers = ("cpus", "cpu_mhz", "sms", "gpu_mhz", "memory_mhz")
        wrong += [f"{place} {key} is a whole number; given: {shown(entry[key])}" for key in _not_of(entry, numbers, int)]
        wrong += [
            f"{place} default is true or false; given: {shown(entry[key])}" for key in _not_of(entry, ("default",), bool)
        ]
        faults += wrong
        modes += [] if wrong else [PowerMode(**entry)]
    return tuple(modes)


def evaluate_formula(formula: str, of: Mapping[str, Figure]) -> float:
    """Evaluate ``formula``: numbers, names of other figures, ``+ - * /`` and brackets.

    Raises:
        ValueError: it holds anything else, or a name that is not there.
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return float(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.Name) and node.id in of:
            return of[node.id].value
        raise ValueError(f"formula {formula!r}: {ast.unparse(node)!r} is neither a number nor one of {', '.join(of)}")

    return value(ast.parse(formula, mode="eval").body)


def _faults(entry: Any, where: str) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f'{where} = {entry!r}: write {{ value = ..., kind = "published", source = "..." }}']
    faults = [unknown("key", key, Figure.__dataclass_fields__, where) for key in _not_in(entry, Figure)]
    faults += [f"{where} has no {key}" for key in ("value", "kind", "source") if entry.get(key) in (None, "")]
    if entry.get("kind", KINDS[0]) not in KINDS:
        faults.append(unknown("kind", str(entry["kind"]), KINDS, where))
    value = entry.get("value", 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        faults.append(f"{where}: value {shown(value)} is no number from 0 on")
    faults += [f"{where} {key} is text; given: {shown(entry[key])}" for key in _not_of(entry, ("source", "formula"), str)]
    return faults


def _not_in(entry: Mapping[str, Any], record: type) -> list[str]:
    return sorted(set(entry) - set(record.__dataclass_fields__))  # type: ignore[attr-defined]


def _not_of(entry: Mapping[str, Any], keys: Iterable[str], kind: type) -> list[str]:
    """List the keys whose value is not of ``kind``; true is no number here."""
    wrong = [key for key in keys if key in entry and not isinstance(entry[key], kind)]
    return wrong + [key for key in keys if kind is int and isinstance(entry.get(key), bool)]
