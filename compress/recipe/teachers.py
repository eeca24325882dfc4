"""[teacher] and [baselines] of a recipe: models, their weights, and what goes with what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from compress.models import factory
from compress.models.checkpoint import WeightsSpec
from compress.models.hub.records import check_names, is_address
from compress.recipe.fields import build, keys
from compress.recipe.spec import AlsoSpec, Baselines, BaselineSpec, LabelledSpec, TeacherSpec
from profiles.errors import unknown

RESERVED_ROWS = ("teacher", "student", "student before quantize")


def _path(given: Any, folder: Path) -> Any:
    """Resolve a path of a recipe: variables of the environment filled in, relative to the recipe's folder."""
    return str(folder / os.path.expanduser(os.path.expandvars(given))) if isinstance(given, str) else given


def _weights(given: str | WeightsSpec, folder: Path) -> str | WeightsSpec:
    """Resolve the path of a checkpoint; an address stays as it is."""
    if is_address(given.file if isinstance(given, WeightsSpec) else given):
        return given
    return replace(given, file=_path(given.file, folder)) if isinstance(given, WeightsSpec) else str(_path(given, folder))


def parse_teacher(table: Mapping[str, Any], source: str, faults: list[str]) -> TeacherSpec | None:
    """Read [teacher], its paths resolved; None where it has faults, which are added to ``faults``."""
    where = f"{source}: [teacher]"
    if "model" not in table:
        faults.append(f"{where} model is missing; write it as package.module:callable")
        return None
    faults += _unknown_below(table, where)
    spec: TeacherSpec | None = build(TeacherSpec, table, where, faults)
    if spec is None:
        return None
    folder = Path(source).parent
    weights = None if spec.weights is None else _weights(spec.weights, folder)
    also = tuple(
        replace(
            a, model=model_reference(a.model, folder), weights=None if a.weights is None else _weights(a.weights, folder)
        )
        for a in spec.also
    )
    faults += _named(spec, where)
    for number, other in enumerate(spec.also, 1):
        place = f"{where.removesuffix(']')}.also] {number}"
        faults += _named(other, place)
    if also and (spec.is_onnx or any(a.model.endswith(".onnx") for a in also)):
        faults.append(f"{where}: an .onnx file neither has other teachers nor is one")
    if spec.mirrored and spec.is_onnx:
        faults.append(f"{where} mirrored: for a teacher with source code; leave it out")
    if spec.labelled is not None and (also or spec.mirrored or spec.is_onnx):
        reason = "so neither beside others nor mirrored nor of an .onnx file"
        faults.append(f"{where} labelled: a copy of the one teacher, {reason}")
    if spec.engine is not None and (spec.labelled is not None or spec.is_onnx):
        faults.append(f"{where} engine: for teachers with source code that read no labels; leave it out")
    return replace(spec, model=model_reference(spec.model, folder), weights=weights, also=also)


def parse_baselines(table: Mapping[str, Any], source: str, faults: list[str]) -> tuple[BaselineSpec, ...]:
    """Read the models of [baselines], each with a name of its own."""
    where, folder = f"{source}: [baselines]", Path(source).parent
    models = table.get("models", [])
    for entry in models if isinstance(models, list) else ():
        faults += [unknown("key", k, keys(BaselineSpec), where) for k in _keys_of(entry) if k not in keys(BaselineSpec)]
    read: Baselines | None = build(Baselines, table, where, faults)
    found: list[BaselineSpec] = []
    for given in () if read is None else read.models:
        spec = BaselineSpec(model=given) if isinstance(given, str) else given
        faults += _named(spec, f"{where} {spec.model}")
        weights = None if spec.weights is None else _weights(spec.weights, folder)
        name = spec.name or spec.model.rpartition(":")[2].removesuffix(".onnx").rpartition("/")[2]
        found.append(replace(spec, name=name, model=model_reference(spec.model, folder), weights=weights))
    names = [spec.name for spec in found]
    faults += [
        f"{where}: {name!r} names a row; a name that is free and has no '/' is wanted: name = \"...\""
        for name in dict.fromkeys(names)
        if names.count(name) > 1 or "/" in name or name in RESERVED_ROWS
    ]
    return tuple(found)


def _keys_of(entry: Any) -> tuple[str, ...]:
    return tuple(entry) if isinstance(entry, Mapping) else ()


def _named(spec: TeacherSpec | AlsoSpec | BaselineSpec, where: str) -> list[str]:
    """List the faults of a teacher's published weights and of its SHA-256."""
    has = spec.weights is not None
    faults = check_names(spec.model, pretrained=spec.pretrained, revision=spec.revision, weights=has, where=where)
    return faults + ([] if has or not spec.sha256 else [f"{where} sha256: of the file that weights names; leave it out"])


def _unknown_below(table: Mapping[str, Any], where: str) -> list[str]:
    """Find keys that the tables within [teacher] do not have, and weights that they lack."""
    faults: list[str] = []
    also = table.get("also", [])
    for number, entry in enumerate(also if isinstance(also, list) else (), 1):
        if isinstance(entry, Mapping) and not any(entry.get(key) for key in ("weights", "pretrained", "revision")):
            place = f"{where.removesuffix(']')}.also] {number}"
            remedy = "give them, or pretrained = true for published ones"
            faults.append(f"{place}: weights is missing, and it is not trained here; {remedy}")
    for name, kind in (("also", AlsoSpec), ("labelled", LabelledSpec), ("weights", WeightsSpec)):
        given, allowed = table.get(name, []), [f.name for f in fields(kind)]
        for entry in given if isinstance(given, list) else [given]:
            keys = entry if isinstance(entry, Mapping) else ()
            faults += [unknown("key", k, allowed, f"{where.removesuffix(']')}.{name}]") for k in keys if k not in allowed]
    return faults


def model_reference(reference: str, folder: Path) -> str:
    """Resolve what names a model: paths are relative to the recipe's folder."""
    if reference.endswith(".onnx"):
        return str(_path(reference, folder))
    library, _, saved = reference.partition(":")
    if library == "transformers" and ("/" in saved or "$" in saved):  # a model that was saved, no configuration's name
        return f"{library}:{_path(saved, folder)}"
    return factory.relative_to(reference, folder)
