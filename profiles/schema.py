"""JSON Schema of a profile, for editors: from the tables that the reader follows."""

from __future__ import annotations

import math
from typing import Any

from profiles.device import BOARD, PROFILE, RUNTIME
from profiles.fields import ENTRY, Field, Fields
from profiles.figures import FIGURE, FIGURES, POWER_MODE

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The one that editors of TOML know (taplo, Even Better TOML)."""


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile."""
    figures = {name: {**table_schema(FIGURE), "description": unit} for name, unit in FIGURES.items()}
    nested = {
        "runtime": {"type": "array", "minItems": 1, "items": table_schema(RUNTIME)},
        "board": table_schema(BOARD),
        "unit": {"type": "object", "additionalProperties": closed(figures)},
        "power_mode": {"type": "array", "items": table_schema(POWER_MODE)},
    }
    schema = table_schema(PROFILE)
    for name, each in nested.items():
        schema["properties"][name] = {**each, "description": PROFILE[name].about}
    # A board without its architecture says nothing.
    return {
        "$schema": DIALECT,
        "title": "device profile of edge-compress",
        **schema,
        "required": ["runtime"],
        "dependencies": {"board": ["arch"]},
    }


def table_schema(fields: Fields) -> dict[str, Any]:
    """Return the JSON Schema of one table."""
    schema = closed({key: field_schema(field) for key, field in fields.items()})
    required = [key for key, field in fields.items() if field.required]
    return {**schema, "required": required} if required else schema


def field_schema(field: Field) -> dict[str, Any]:
    """Return the JSON Schema of one key's value."""
    text: dict[str, Any] = {"type": "string", **({"enum": list(field.names)} if field.names else {})}
    if field.required:
        text["minLength"] = 1
    usual = {} if field.usual is None or field.kind == "any" else {"default": field.usual}
    return {**_of_kind(field, text), "description": field.about, **usual}


def _of_kind(field: Field, text: dict[str, Any]) -> dict[str, Any]:
    if field.kind == "text":
        return text
    if field.kind == "texts":
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    if field.kind == "table":
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if field.kind == "flag":
        return {"type": "boolean"}
    if field.kind == "chosen":
        return {"type": "array", "items": {"anyOf": [text, _entry(text)]}}
    if field.kind in ("whole", "number"):
        bounds = {"minimum": field.least, **({"maximum": field.most} if math.isfinite(field.most) else {})}
        return {"type": "integer" if field.kind == "whole" else "number", **bounds}
    return {}


def _entry(name: dict[str, Any]) -> dict[str, Any]:
    schema = table_schema(ENTRY)
    return {**schema, "properties": {**schema["properties"], "name": name}}


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table that has these keys and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}
