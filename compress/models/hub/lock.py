"""``RECIPE.lock``: what the names of a recipe stood for, so that a later run takes the same bytes or none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.models.hub.records import Pin
from deploy.files import write_atomically
from profiles.errors import UserError
from profiles.toml import read_toml

SCHEMA = 1
DIGEST = re.compile(r"[0-9a-f]{64}")
HEAD = """\
# What the names of {recipe} stood for, by content; made by compress run, to be kept with the recipe.
# Other bytes are refused. Delete this file to take what the names stand for now.
"""


def lock_path(recipe: Path) -> Path:
    """Return the path of a recipe's lock: ``my.lock`` beside ``my.toml``."""
    return recipe.with_suffix(".lock")


def read_lock(path: Path) -> dict[tuple[str, str], Pin]:
    """Read the pins of a lock by what was asked; none where there is no lock.

    Raises:
        UserError: it is damaged, or of another version.
    """
    if not path.is_file():
        return {}
    remedy = "restore it, or delete it to take what the names stand for now"
    try:
        table = read_toml(path)
        if table.get("schema") != SCHEMA:
            raise UserError(f"{path}: schema {table.get('schema')!r}; this version reads {SCHEMA}; {remedy}")
        pins = TypeAdapter(tuple[Pin, ...]).validate_python(table.get("name", []))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: damaged (name.{where}: {first['msg']}); {remedy}") from None
    bad = [file.sha256 for pin in pins for file in pin.files if not DIGEST.fullmatch(file.sha256)]
    if bad:
        raise UserError(f"{path}: damaged: sha256 has 64 hexadecimal digits; given: {bad[0][:80]!r}; {remedy}")
    return {pin.key: pin for pin in pins}


def write_lock(path: Path, recipe: str, pins: Iterable[Pin]) -> None:
    """Write the pins; a lock that says the same is left as it is."""
    lines = [HEAD.format(recipe=recipe), f"schema = {SCHEMA}"]
    for pin in sorted(pins, key=lambda pin: pin.key):
        lines += ["", "[[name]]", *_keys(pin, ("model", "asked", "source", "revision"))]
        for file in pin.files:
            lines += ["[[name.files]]", *_keys(file, tuple(f.name for f in fields(file)))]
    content = ("\n".join(lines) + "\n").encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def _keys(record: Any, names: tuple[str, ...]) -> list[str]:
    # JSON's texts and numbers are TOML's, but for DEL, which TOML wants escaped
    shown = [(name, json.dumps(getattr(record, name), ensure_ascii=False).replace("\x7f", "\\u007F")) for name in names]
    return [f"{name} = {value}" for name, value in shown if value != '""']


def check_pin(held: Pin | None, found: Pin, lock: Path | None) -> None:
    """Refuse bytes other than those that the lock has for a name.

    Raises:
        UserError: the files that differ, with the remedy; all of them.
    """
    if held is None:
        return
    known = {file.name: file for file in held.files}
    faults: list[str] = []
    for file in found.files:
        if file.name not in known:
            faults.append(f"{found.model}: {file.name} is not in {lock}, which has {', '.join(known) or 'no file'}")
        elif known[file.name].sha256 != file.sha256:
            was, now = known[file.name].sha256[:12], file.sha256[:12]
            faults.append(f"{found.model}: {file.name} of {found.source} has other bytes: SHA-256 {now}, {lock} has {was}")
    if faults:
        remedy = f"where the new bytes are wanted, delete {lock}; else give the old file"
        raise UserError(*[f"{fault}; {remedy}" for fault in faults])
