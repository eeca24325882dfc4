"""Dataclasses from tables of a recipe, its keys, types and bounds checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.data.options import as_plain
from profiles.errors import unknown
from profiles.toml import shown


def keys(kind: Any) -> dict[str, str]:
    """Return the fields of a dataclass by the keys of its table: ``from`` is called ``from_`` in Python."""
    return {field.name.removesuffix("_"): field.name for field in fields(kind)}


def build(kind: Any, table: Mapping[str, Any], where: str, faults: list[str]) -> Any:
    """Build the dataclass ``kind`` from a table, its types and bounds checked; None where it has faults.

    Values are checked as the plain data that a recipe holds, strictly: text is no number, and 1.0 no whole one. From Python
    may come objects besides, which are checked as such.
    """
    allowed = keys(kind)
    wrong = [unknown("key", key, allowed, where) for key in table if key not in allowed]
    faults += wrong
    known = {allowed[key]: value for key, value in table.items() if key in allowed}
    try:
        record = _validated(TypeAdapter(kind), known)
    except ValidationError as error:
        faults += [_fault(detail, where) for detail in _joined(error.errors())]
        return None
    return None if wrong else record


def _validated(adapter: TypeAdapter[Any], known: Mapping[str, Any]) -> Any:
    try:
        text = json.dumps(known, default=as_plain)
    except (TypeError, ValueError, RecursionError):  # no plain data
        return adapter.validate_python(known)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        if any(each["type"] == "needs_python_object" for each in error.errors()):
            return adapter.validate_python(known)
        raise


def _joined(details: Sequence[Any]) -> list[Any]:
    """Make one fault of those that all alternatives of a key's words have with one value."""
    joined: dict[tuple[str | int, ...], Any] = {}
    for detail in details:
        place = tuple(part for part in detail["loc"] if not str(part).startswith("literal["))
        if place in joined:
            more = str(detail["msg"]).removeprefix("Input should be ")
            joined[place] = {**joined[place], "msg": f"{joined[place]['msg']}, or {more}"}
        else:
            joined[place] = {**detail, "loc": place}
    return list(joined.values())


def _fault(detail: Any, where: str) -> str:
    key = ".".join(str(part).removesuffix("_") for part in detail["loc"])
    words = str(detail["msg"]).removeprefix("Value error, ")
    given = "" if "Value error" in detail["msg"] else f"; given: {shown(detail['input'])}"
    return f"{f'{where} {key}'.rstrip()}: {words}{given}"
