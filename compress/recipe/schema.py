"""JSON Schema of a recipe, for editors: from the records, signatures and tables that the parser reads."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from compress.data.options import hints_of, parameters_of
from compress.methods.condensation import SETS
from compress.methods.distillation.loss_specs import LossSpec, losses, weights
from compress.recipe import parse
from compress.recipe.fields import keys
from compress.recipe.inputs import SIZES_SCHEMA, STATES_SCHEMA
from compress.recipe.search import OBJECTIVES, PRUNERS, SAMPLERS
from compress.recipe.spec import Plain
from compress.stages import stages
from compress.stages.trained import Losses
from profiles.schema import DIALECT, closed
from profiles.tables import load_object

Schema = dict[str, Any]
REFERENCE = "#/definitions/{model}"
OWN = {"type": "string", "pattern": ":", "description": "One of your own: package.module:callable or file.py:callable."}
SEARCH = {
    "type": "object",
    "description": "What `compress search` varies, by key: `STAGE.FIELD`, `student.ARGUMENT`, `stages`, `runtimes`.",
    "properties": {
        "objectives": {"type": "array", "minItems": 1, "items": {"enum": list(OBJECTIVES)}},
        "sampler": {"enum": list(SAMPLERS)},
        "pruner": {"enum": list(PRUNERS)},
        "stages": {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "string"}}},
    },
    "additionalProperties": {"type": ["array", "object"]},
}
SECTIONS = re.compile(r"^(Attributes|Args):\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w[\w, ]*): ((?:.*\n?)(?:^     .*\n?)*)", re.MULTILINE)
"""An entry of such a section: names, and the text with its further lines."""


def recipe_schema() -> Schema:
    """Return the JSON Schema of a recipe."""
    definitions: Schema = {}
    definitions |= {"loss": _loss(definitions), "weight": _weight(definitions)}
    tables = {name: _record(kind, definitions) for name, kind in parse.TABLES.items()}
    for name, table in (("kind", parse.tasks()), ("data", parse.sources())):
        described = tables["task"]["properties"][name]["description"]
        tables["task"]["properties"][name] = {**_named(table, definitions), "description": described}
    tables["student"]["oneOf"] = [{"required": ["from"]}, {"required": ["model"]}]
    described = tables["recovery"]["properties"]["set"]["description"]
    sets = [_used(name, _record(load_object(given), definitions)) for name, given in SETS.items()]
    tables["recovery"]["properties"]["set"] = {"oneOf": sets, "description": described}
    named = _named(parse.sources(), definitions)
    tables["recovery"]["properties"]["unlabelled"] |= named
    plain = _record(Plain, definitions)["properties"]
    plain["trackers"]["items"] = {"enum": sorted(parse.TRACKERS)}
    stage = {
        "type": "array",
        "description": "The stages, in order.",
        "items": {"oneOf": [_used(name, _record(load_object(given), definitions)) for name, given in stages().items()]},
    }
    schema = closed({**plain, **tables, "input": SIZES_SCHEMA, "state": STATES_SCHEMA, "stage": stage, "search": SEARCH})
    head = {"$schema": DIALECT, "title": "recipe of edge-compress"}
    return {**head, **schema, "required": ["task", "teacher"], "definitions": definitions}


def _record(kind: Any, definitions: Schema) -> Schema:
    """Return the schema of a dataclass: its fields, their types, defaults and descriptions."""
    hints, told = typing.get_type_hints(kind, include_extras=True), _documented(kind)
    properties: Schema = {}
    required: list[str] = []
    by_name = {field.name: field for field in dataclasses.fields(kind)}
    for key, name in keys(kind).items():
        field, default = by_name[name], dataclasses.MISSING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is dataclasses.MISSING:
            required.append(key)
        described = {"description": told[name]} if name in told else {}
        properties[key] = {**_of_hint(hints[name], definitions), **described, **_default(default)}
    schema = {**closed(properties), "description": _first_line(kind)}
    return {**schema, "required": required} if required else schema


def _of_hint(hint: Any, definitions: Schema) -> Schema:
    """Return the schema of a type; the dataclasses in it are definitions of their own."""
    if hint == Losses:
        return {"type": "array", "minItems": 1, "items": {"$ref": "#/definitions/loss"}}
    schema = _by_pydantic(hint)
    below = schema.pop("$defs", {})
    for each in _dataclasses(hint):
        if each.__name__ in below and each.__name__ not in definitions:
            definitions[each.__name__] = {}  # it may be within itself
            definitions[each.__name__] = _record(each, definitions)
    for name, definition in below.items():
        definitions.setdefault(name, definition)
    return {key: value for key, value in schema.items() if key != "title"}


def _by_pydantic(hint: Any) -> Schema:
    """Return pydantic's schema of a type; empty, which is anything, where it knows none."""
    for config in (ConfigDict(arbitrary_types_allowed=True), None):
        try:
            return TypeAdapter(hint, config=config).json_schema(ref_template=REFERENCE)
        except PydanticUserError:
            continue
    return {}


def _dataclasses(hint: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):  # bounds of an annotation are objects of some
        yield hint
    for part in typing.get_args(hint):
        yield from _dataclasses(part)


def _options(call: Callable[..., Any], definitions: Schema, *, keyword_only: bool = False) -> Schema:
    """Return the schema of a table of keyword arguments."""
    parameters, hints, told = parameters_of(call, keyword_only=keyword_only), hints_of(call), _documented(call)
    named = {name: each for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    properties = {
        name: {
            **(_of_hint(hints[name], definitions) if name in hints else {}),
            **({"description": told[name]} if name in told else {}),
            **_default(each.default),
        }
        for name, each in named.items()
    }
    required = [name for name, each in named.items() if each.default is each.empty]
    schema = {**closed(properties), "description": _first_line(call)}
    if len(named) < len(parameters):
        schema["additionalProperties"] = True
    return {**schema, "required": required} if required else schema


def _named(table: Mapping[str, str], definitions: Schema) -> Schema:
    """Return the schema of a name of a table, or a table of ``use`` and its options."""
    entries = [_used(name, _options(load_object(given), definitions)) for name, given in table.items()]
    return {"anyOf": [{"enum": list(table)}, OWN, *entries, _own_table()]}


def _loss(definitions: Schema) -> Schema:
    entries = []
    for name, reference in losses().items():
        call = load_object(reference)
        schema = _options(call, definitions, keyword_only=True)
        layers = {
            "description": "Pairs of modules of student and teacher to compare.",
            **_by_pydantic(list[tuple[str, str]]),
        }
        schema["properties"] |= {"weight": {"$ref": "#/definitions/weight"}, "layers": layers}
        entries.append(_used(name, schema))
    return {"anyOf": [{"enum": list(losses())}, OWN, *entries, _own_table()]}


def _weight(definitions: Schema) -> Schema:
    calls = {name: load_object(given) for name, given in weights().items()}
    entries = [_used(name, _options(call, definitions, keyword_only=True)) for name, call in calls.items()]
    return {
        "description": "What its value is multiplied by: a number, or how it is found.",
        "anyOf": [{"type": "number", "minimum": 0}, *entries],
    }


def _used(name: str, schema: Schema) -> Schema:
    """Return the schema of a table that says ``use = name`` beside the rest."""
    properties = {"use": {"const": name, "description": schema["description"]}, **schema["properties"]}
    return {**schema, "title": name, "properties": properties, "required": ["use", *schema.get("required", ())]}


def _own_table() -> Schema:
    return {"type": "object", "properties": {"use": OWN}, "required": ["use"]}


def _default(value: Any) -> Schema:
    """Return the default of a field as plain data; nothing where there is none, or it is no plain data."""
    if value in (dataclasses.MISSING, inspect.Parameter.empty, None):
        return {}
    if isinstance(value, tuple) and value and all(isinstance(each, LossSpec) for each in value):
        value = [{"use": each.use, "weight": each.weight, **each.options} for each in value]
    try:
        plain = to_jsonable_python(value)
        json.dumps(plain, allow_nan=False)
    except (PydanticSerializationError, ValueError):
        return {}
    return {} if isinstance(plain, float) and not math.isfinite(plain) else {"default": plain}


def _documented(thing: Any) -> dict[str, str]:
    """Return what docstrings say of attributes or arguments, those of base classes too."""
    told: dict[str, str] = {}
    for each in reversed(thing.__mro__) if isinstance(thing, type) else [thing]:
        for _, section in SECTIONS.findall(inspect.cleandoc(each.__doc__ or "") + "\n"):
            for names, text in ENTRY.findall(section):
                told |= {name.strip(): _sentence(text) for name in names.split(",")}
    return told


def _sentence(text: str) -> str:
    line = " ".join(text.replace("``", "").split())
    return line[:1].upper() + line[1:]


def _first_line(thing: Any) -> str:
    return _sentence((inspect.getdoc(thing) or "").partition("\n")[0])
