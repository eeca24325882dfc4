"""Recordings under a folder: what classes they have, and which part of the data they belong to."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from compress.data.box_samples import PARTS
from compress.data.decoding import read_text
from compress.data.recordings import SUFFIXES, is_sound
from profiles.errors import UserError

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
"""Speech Commands' lists of what is held out."""

LEFT_OUT = ("_", ".")
"""How folders begin that hold no class, as Speech Commands' noise."""

FIELD = re.compile(r"\{(\w+)\}")


@final
@dataclass(kw_only=True)
class LabelledSound:
    """A recording: its file under the root, its labels, its part, and what its name says."""

    file: str
    labels: Sequence[str]
    part: str = "train"
    fields: Mapping[str, str]


def find_sounds(root: Path, names: str, table: str, columns: tuple[str, str, str], faults: list[str]) -> list[LabelledSound]:
    """Find the recordings under ``root`` with their labels, by table, name or folder; faults are added to ``faults``.

    Args:
        columns: of the table: those of the file and the label, and what separates labels.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give one that holds recordings")
    pattern = _pattern(names, faults)
    labelled = None if not table else _table(root / table, *columns, faults)
    files = _files(root)
    if not files:
        faults.append(f"data: {root} holds no recording; known kinds: {', '.join(SUFFIXES)}")
    parts = _parts(root, files)
    sounds: list[LabelledSound] = []
    for file in files:
        fields: Mapping[str, str] = {}
        if pattern:
            found = _fields(Path(file).stem, pattern)
            if found is None:
                faults.append(f"data: {root / file} has no name of the form {names}")
                continue
            fields = found
        labels = _labels(file, fields, labelled, parts[file][1])
        if labels is None:
            where = f"{table} has no row for it" if table else "it is in no folder of a class"
            faults.append(f"data: {root / file}: {where}")
            continue
        sounds.append(LabelledSound(file=file, labels=labels, part=parts[file][0], fields=fields))
    return sounds


def _files(root: Path) -> list[str]:
    """List the recordings anywhere under a folder, but for folders that hold no class."""
    found: list[str] = []
    for place, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(LEFT_OUT)]
        under = os.path.relpath(place, root)
        found += [os.path.normpath(os.path.join(under, name)) for name in names if is_sound(name)]
    return sorted(found)


def _labels(
    file: str, fields: Mapping[str, str], table: Mapping[str, Sequence[str]] | None, folders: Sequence[str]
) -> Sequence[str] | None:
    if table is not None:
        return table.get(file, table.get(Path(file).name, table.get(Path(file).stem)))
    if "label" in fields:
        return [fields["label"]]
    return [folders[0]] if folders else None


def _parts(root: Path, files: Sequence[str]) -> dict[str, tuple[str, Sequence[str]]]:
    """Return the part of each file, by its first folder or a list, and its folders below that."""
    listed: dict[str, str] = {}
    for part, name in LISTS.items():
        if (root / name).is_file():
            listed |= {os.path.normpath(row.strip()): part for row in read_text(root / name).splitlines() if row.strip()}
    has_parts = any(Path(file).parts[0] == "train" for file in files)
    found: dict[str, tuple[str, Sequence[str]]] = {}
    for file in files:
        first, *inner = Path(file).parts
        if has_parts and first in PARTS:
            found[file] = PARTS[first], inner[:-1]
        else:
            found[file] = listed.get(file, "train"), Path(file).parts[:-1]
    return found


def _pattern(names: str, faults: list[str]) -> list[str]:
    """Split the form of names into text, field, text, field and so on, text at both ends; empty where there is none."""
    if not names:
        return []
    fields = FIELD.findall(names)
    if not fields or len(set(fields)) < len(fields):
        faults.append(f"data: names has fields, each once, such as {{label}}_{{speaker}}_{{take}}; given: {names!r}")
        return []
    return FIELD.split(names)


def _fields(name: str, pattern: Sequence[str]) -> dict[str, str] | None:
    """Read the fields of a name, each as short as can be and of one character at least; None where it has another form.

    In one pass: a regular expression of several fields takes time with a power of the name's length.
    """
    at, last = len(pattern[0]), len(pattern) - 2
    if not name.startswith(pattern[0]):
        return None
    fields: dict[str, str] = {}
    for place in range(1, len(pattern), 2):
        text = pattern[place + 1]
        rest = len(name) - len(text) if name.endswith(text) else -1
        end = name.find(text, at + 1) if place < last else rest
        if end <= at:
            return None
        fields[pattern[place]], at = name[at:end], end + len(text)
    return fields


def _table(file: Path, file_column: str, label_column: str, separator: str, faults: list[str]) -> dict[str, list[str]]:
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
    except csv.Error as error:
        faults.append(f"data: {file} is no table: {error}")
        return {}
    missing = [name for name in (file_column, label_column) if not rows or name not in rows[0]]
    if missing:
        there = ", ".join(str(name) for name in rows[0]) if rows else "no row"
        faults.append(f"data: {file} has no column {' and no column '.join(missing)}; it has {there}")
        return {}
    if short := [number for number, row in enumerate(rows, 2) if None in (row[file_column], row[label_column])]:
        faults.append(f"data: {file} line {short[0]} has fewer columns than the first; {len(short)} such rows")
        return {}
    split = {row[file_column]: row[label_column].split(separator) if separator else [row[label_column]] for row in rows}
    return {name: [each.strip() for each in labels if each.strip()] for name, labels in split.items()}


def hold_out(
    sounds: Sequence[LabelledSound],
    names: str,
    held_out: Mapping[str, Mapping[str, Sequence[str]]],
    by: str,
    shares: tuple[float, float],
    seed: int,
    faults: list[str],
) -> None:
    """Move recordings to validation and test, by what their names say."""
    fields = FIELD.findall(names)
    asked = {field for wanted in held_out.values() for field in wanted} | ({by} if by else set())
    if strange := sorted(asked - set(fields)):
        faults.append(f"data: held_out and by are of the fields of names, {', '.join(fields) or 'none'}; given: {strange}")
        return
    if wrong := sorted(set(held_out) - {"validation", "test"}):
        faults.append(f"data: held_out is for validation and test; given: {', '.join(wrong)}")
        return
    for part, wanted in held_out.items():
        chosen = [s for s in sounds if all(s.fields[field] in values for field, values in wanted.items())]
        if not chosen:
            faults.append(f"data: held_out for {part} is not one of {len(sounds)} recordings; given: {dict(wanted)}")
        for each in chosen:
            each.part = part
    if by:
        _hold_out_by(sounds, by, shares, seed, faults)


def _hold_out_by(
    sounds: Sequence[LabelledSound], by: str, shares: tuple[float, float], seed: int, faults: list[str]
) -> None:
    """Move all recordings of some values of a field to the parts that are missing, until each has its share."""
    spare = [each for each in sounds if each.part == "train"]
    counts = Counter(each.fields[by] for each in spare)
    order = np.random.default_rng(seed).permutation(sorted(counts)).tolist()
    there = {each.part for each in sounds}
    for part, share in (("validation", shares[0]), ("test", shares[1])):
        if part in there:
            continue
        wanted = share * len(spare) if share < 1 else share
        moved: set[str] = set()
        while order and sum(counts[value] for value in moved) < wanted:
            moved.add(order.pop())
        if not order:
            faults.append(f"data: {len(counts)} values of {by} cannot be parted into train, validation and test")
            return
        for each in spare:
            if each.fields[by] in moved:
                each.part = part
