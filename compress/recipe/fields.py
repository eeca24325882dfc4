"""Dataclasses from tables of a recipe, its keys, types and bounds checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from profiles.errors import unknown
from profiles.toml import shown


def build(kind: Any, table: Mapping[str, Any], where: str, faults: list[str]) -> Any:
    """Build the dataclass ``kind`` from a table, its types and bounds checked; None where it has faults."""
    allowed = [f.name for f in fields(kind)]
    wrong = [unknown("key", key, allowed, where) for key in table if key not in allowed]
    faults += wrong
    try:
        known = {key: value for key, value in table.items() if key in allowed}
        record = TypeAdapter(kind).validate_python(known)
    except ValidationError as error:
        faults += [_fault(detail, where) for detail in error.errors()]
        return None
    return None if wrong else record


def _fault(detail: Any, where: str) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "?"
    words = str(detail["msg"]).removeprefix("Value error, ")
    given = "" if "Value error" in detail["msg"] else f"; given: {shown(detail['input'])}"
    return f"{where} {key}: {words}{given}"
