"""[input] and [state] of a recipe: sizes of axes along which samples differ, and outputs that are fed back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, final

from annotated_types import Ge, Gt, Len

from compress.recipe.fields import build
from profiles.toml import shown

SEQUENCE_LOSSES: dict[str, Any] = {
    "distill": ("task", {"use": "kd", "weight": 1.0}),
    "recovery": ({"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}),
}
"""Of stages that name none, where a model walks sequences: what layers give is that of the last step alone."""

Size = Annotated[int, Gt(0)]


@final
@dataclass(frozen=True, kw_only=True)
class FreeSize:
    """Size of an axis that a model leaves free.

    Attributes:
        name: of the axis: as an ONNX file calls it, or of one's own choice for a module.
        sizes: that engines are built for.
        axis: where a module's inputs have it, the samples' own being 0; found by the data's sizes without it.
        inputs: that have it; all that fit without it.
        fill: what fills up a shorter sample.
    """

    name: str
    sizes: Annotated[tuple[Size, ...], Len(1)]
    axis: Annotated[int, Gt(0)] | None = None
    inputs: tuple[str, ...] = ()
    fill: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class FedState:
    """Input that takes what an output gave at the step before.

    Attributes:
        name: of the input.
        output: name or place of the output.
        shape: of one sample; found by the model where it has one of its own.
    """

    name: str
    output: str | Annotated[int, Ge(0)]
    shape: tuple[Annotated[int, Gt(0)], ...] | None = None


def parse_sizes(table: Mapping[str, Any], source: str, faults: list[str]) -> tuple[FreeSize, ...]:
    """Read [input]: ``length = 128``, ``length = [64, 128]``, or a table with ``sizes``; one name may have several sizes."""
    found: list[FreeSize] = []
    for name, given in table.items():
        where = f"{source}: [input] {name}"
        entry = dict(given) if isinstance(given, Mapping) else {"sizes": given}
        if isinstance(entry.get("sizes"), int):
            entry["sizes"] = [entry["sizes"]]
        if "sizes" not in entry or not isinstance(entry["sizes"], list | tuple):
            faults.append(f"{where} is a size, a list of sizes, or a table with sizes; given: {shown(given)}")
            continue
        spec: FreeSize | None = build(FreeSize, {**entry, "name": name}, where, faults)
        if spec is None:
            continue
        if len(set(spec.sizes)) < len(spec.sizes):
            faults.append(f"{where}: a size stands there twice; given: {shown(list(spec.sizes))}")
        found.append(spec)
    if len(several := [spec.name for spec in found if len(spec.sizes) > 1]) > 1:
        faults.append(
            f"{source}: [input] {' and '.join(several)} have several sizes each; one name may, the others have one"
        )
    return tuple(found)


def parse_states(table: Mapping[str, Any], source: str, faults: list[str]) -> tuple[FedState, ...]:
    """Read [state]: ``h = "hn"``, ``h = 1``, or a table with ``output`` and ``shape``."""
    found: list[FedState] = []
    for name, given in table.items():
        where = f"{source}: [state] {name}"
        entry = dict(given) if isinstance(given, Mapping) else {"output": given}
        spec: FedState | None = build(FedState, {**entry, "name": name}, where, faults)
        if spec is not None:
            found.append(spec)
    outputs = [spec.output for spec in found]
    faults += [
        f"{source}: [state] output {shown(output)} is fed back twice; each state has one of its own"
        for output in dict.fromkeys(outputs)
        if outputs.count(output) > 1
    ]
    return tuple(found)


def parse_inputs(
    table: Mapping[str, Any], source: str, *, answers: bool, faults: list[str]
) -> tuple[tuple[FreeSize, ...], tuple[FedState, ...]]:
    """Read [input] and [state] of a recipe; ``answers``: whether an engine answers in the teacher's place."""
    sizes = parse_sizes(table.get("input", {}), source, faults)
    states = parse_states(table.get("state", {}), source, faults)
    has_several = any(len(spec.sizes) > 1 for spec in sizes)
    if states and has_several:
        faults.append(f"{source}: [state] goes with one size of each name in [input], not with several")
    if answers and (states or has_several):
        faults.append(f"{source}: [teacher] engine: it takes one size and keeps no state; leave it out")
    return sizes, states


SIZES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Sizes of axes along which samples differ, by name: `length = 128`, or several, an engine each.",
    "additionalProperties": {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}, "uniqueItems": True},
            {
                "type": "object",
                "properties": {
                    "sizes": {
                        "anyOf": [
                            {"type": "integer", "minimum": 1},
                            {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1}},
                        ]
                    },
                    "axis": {"type": "integer", "minimum": 1},
                    "inputs": {"type": "array", "items": {"type": "string"}},
                    "fill": {"type": "object", "additionalProperties": {"type": "number"}},
                },
                "required": ["sizes"],
                "additionalProperties": False,
            },
        ]
    },
}
STATES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": 'Inputs that take what an output gave at the step before: `h = "hn"`.',
    "additionalProperties": {
        "anyOf": [
            {"type": "string"},
            {"type": "integer", "minimum": 0},
            {
                "type": "object",
                "properties": {
                    "output": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                },
                "required": ["output"],
                "additionalProperties": False,
            },
        ]
    },
}
