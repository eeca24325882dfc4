"""Published or derived figures of a device, each with its kind and source."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiles.errors import one_line, unknown
from profiles.fields import Field, Fields, read_fields
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

MOST_COUNT = 2**31
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


KIND = Field(kind="text", about="How sure it is.", names=KINDS, name="kind", required=True)
SOURCE = Field(kind="text", about="Where it was read or how it was timed.", required=True)
FIGURE: Fields = {
    "value": Field(kind="number", about="The number, in the figure's own unit.", most=math.inf, required=True),
    "kind": KIND,
    "source": SOURCE,
    "formula": Field(kind="text", about="Arithmetic over the unit's other figures, for a derived one.", usual=""),
}
MEGAHERTZ = Field(kind="whole", about="Cap of the clock in MHz.", most=MOST_COUNT)
POWER_MODE: Fields = {
    "name": Field(kind="text", about="Its name, since ids differ between boards and releases.", required=True),
    "kind": KIND,
    "source": SOURCE,
    "default": Field(kind="flag", about="Whether the board starts in it.", usual=False),
    "cpus": Field(kind="whole", about="CPU cores that are on.", most=MOST_COUNT),
    "cpu_mhz": MEGAHERTZ,
    "sms": Field(kind="whole", about="Multiprocessors of the GPU that are on.", most=MOST_COUNT),
    "gpu_mhz": MEGAHERTZ,
    "memory_mhz": MEGAHERTZ,
}

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
    if not isinstance(entry, Mapping):
        faults.append(f'{where} = {shown(entry)}: write {{ value = ..., kind = "published", source = "..." }}')
        return None
    before = len(faults)
    values = read_fields(entry, FIGURE, where, faults)
    return Figure(**{**values, "value": float(values["value"])}) if len(faults) == before else None


def power_modes(entries: list[Any], where: str, faults: list[str]) -> tuple[PowerMode, ...]:
    """Parse a profile's ``[[power_mode]]`` tables; faults are added to ``faults``."""
    modes = []
    for entry in entries:
        before = len(faults)
        values = read_fields(entry, POWER_MODE, f"{where}: power mode {shown(entry.get('name', ''))}", faults)
        modes += [PowerMode(**values)] if len(faults) == before else []
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
