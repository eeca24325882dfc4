"""Fields of a profile's tables: what each may be, and what it says. The reader and the published schema follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from profiles.errors import unknown
from profiles.toml import shown

MOST_NUMBER = 2**20
"""Largest number of threads, cores, GiB or images a batch."""


@final
@dataclass(frozen=True, kw_only=True)
class Field:
    """One key of a table.

    Attributes:
        kind: ``texts`` is a text or a list of texts; ``table`` texts by name; ``whole`` a whole number; ``chosen`` a list of
            names, or of tables ``{name = "...", needs = [...]}`` that count where the processor has one of those flags;
            ``any`` is checked by whoever reads it.
        about: what it says, in a line.
        usual: where it is not there.
        least, most: bounds of a number.
        names: what a text may be, or the names of ``chosen``; empty for any.
        name: what such a name is called in an error.
        required: whether a table without it is wrong.
    """

    kind: Literal["text", "texts", "table", "whole", "number", "flag", "chosen", "any"]
    about: str
    usual: Any = None
    least: float = 0
    most: float = MOST_NUMBER
    names: tuple[str, ...] = ()
    name: str = "name"
    required: bool = False

    def fault(self, value: Any) -> str:
        """Return what the value should be, in words that follow the key; empty where it is."""
        if self.kind == "text":
            return "" if isinstance(value, str) else "is text"
        if self.kind == "texts":
            texts = [value] if isinstance(value, str) else value
            right = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
            return "" if right else "is a text or a list of texts"
        if self.kind == "table":
            right = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
            return "" if right else 'is a table of texts, { name = "value" }'
        if self.kind == "flag":
            return "" if isinstance(value, bool) else "is true or false"
        if self.kind == "chosen":
            return "" if isinstance(value, list) else "is a list of names"
        if self.kind in ("whole", "number"):
            kind, word = (int, "whole number") if self.kind == "whole" else (int | float, "number")
            right = isinstance(value, kind) and not isinstance(value, bool) and self.least <= value <= self.most
            right = right and math.isfinite(value)
            to = f" to {self.most:,}" if math.isfinite(self.most) else " on"
            return "" if right else f"is a {word} from {self.least:g}{to}"
        return ""


Fields = Mapping[str, Field]


def read_fields(table: Mapping[str, Any], of: Fields, where: str, faults: list[str]) -> dict[str, Any]:
    """Read a table: every key of ``of``, with what is usual in place of what is not there or is wrong.

    Args:
        where: the table's place; an unknown key, a missing or a wrong one is added to ``faults`` with it.
    """
    faults += [unknown("key", key, of, where) for key in sorted(set(table) - set(of))]
    values: dict[str, Any] = {}
    for key, field in of.items():
        value = table.get(key, field.usual)
        if field.required and value in (None, ""):
            faults.append(f"{where} has no {key}")
        elif key in table and (fault := field.fault(value)):
            faults.append(f"{where} {key} {fault}; given: {shown(value)}")
            value = field.usual
        elif key in table and field.kind == "text" and field.names and value not in field.names:
            faults.append(unknown(field.name, value, field.names, where))
            value = field.usual
        if field.kind == "texts":
            value = (value,) if isinstance(value, str) else tuple(value or ())
        values[key] = value
    return values


def chosen(
    given: Iterable[Any], field: Field, flags: frozenset[str], where: str, key: str, faults: list[str]
) -> tuple[str, ...]:
    """Choose names whose ``needs`` the processor's flags meet: ``"int8"``, or ``{name = "bf16", needs = ["amx_bf16"]}``."""
    names: list[str] = []
    for each in given:
        before = len(faults)
        table = {"name": each} if isinstance(each, str) else each
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            faults.append(f'{where} {key} are names, or {{ name = "...", needs = [...] }}; given: {shown(each)}')
            continue
        entry = read_fields(table, ENTRY, f"{where} {key}", faults)
        if field.names and entry["name"] not in field.names:
            faults.append(unknown(field.name, entry["name"], field.names, where))
        if len(faults) == before and (not entry["needs"] or flags.intersection(entry["needs"])):
            names.append(entry["name"])
    return tuple(names)


ENTRY: Fields = {
    "name": Field(kind="text", about="The name.", required=True),
    "needs": Field(kind="texts", about="Flags of the processor, of which it must have one."),
}
"""An entry of a list of names that says what it needs."""
