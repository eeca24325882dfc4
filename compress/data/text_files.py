"""Tables of texts: CSV, TSV and JSON lines; and CoNLL files, a word and its tag a line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from profiles.errors import UserError

Column = str | int
"""Name of a column, of a file whose first line has names; or its number from 0, of a file whose first line is data."""

MOST_BYTES = 1 << 31
MOST_FIELD = 1 << 20
"""Characters of one field; a quote that is never closed would make one of a whole file."""


def read_columns(file: Path, columns: Sequence[Column]) -> list[list[str]]:
    """Read some columns of a table: ``.csv``, ``.tsv``, ``.jsonl``.

    Returns:
        The values of each column, in the order of ``columns``; each as text.

    Raises:
        UserError: no such file, of another suffix, not UTF-8, too large, rows that are shorter than the first, or columns
            that are not there, with those that are.
    """
    assert columns, "at least one column"
    rows = _json_lines(file, columns) if file.suffix == ".jsonl" else _separated(file, columns)
    if not rows:
        raise UserError(f"data: {file} has no rows")
    return [[row[number] for row in rows] for number in range(len(columns))]


def read_conll(file: Path) -> list[tuple[list[str], list[str]]]:
    """Read sentences as words and tags: a word and, behind a tab or space, its tag a line; an empty line between sentences.

    The first field is the word and the last one the tag, as the files of CoNLL 2003 and WNUT 2017 have it.

    Raises:
        UserError: no such file, not UTF-8, or a line without a tag.
    """
    sentences: list[tuple[list[str], list[str]]] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_lines(file), ""], start=1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                sentences.append((words, tags))
            words, tags = [], []
        elif len(fields) < 2 or not fields[0].strip() or not fields[-1].strip():
            raise UserError(
                f"data: {file}: line {number} has no tag: a word and its tag, a tab between; given: {line[:60]!r}"
            )
        else:
            words.append(fields[0])
            tags.append(fields[-1].strip())
    if not sentences:
        raise UserError(f"data: {file} has no sentences")
    return sentences


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file that are not empty.

    Raises:
        UserError: no such file, not UTF-8, too large or without a line.
    """
    lines = [line.strip() for line in _lines(file) if line.strip()]
    if not lines:
        raise UserError(f"data: {file} has no lines; a text a line")
    return lines


def _separated(file: Path, columns: Sequence[Column]) -> list[list[str]]:
    if file.suffix not in (".csv", ".tsv", ".txt"):
        raise UserError(f"data: {file}: tables of texts are .csv, .tsv or .jsonl")
    csv.field_size_limit(MOST_FIELD)
    delimiter = "," if file.suffix == ".csv" else "\t"
    try:
        # strict: a quote that is never closed would take the rows behind it into one field
        rows = [row for row in csv.reader(io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise UserError(f"data: {file}: not a table ({error}); fields with quotes are in quotes, each doubled") from None
    named = any(isinstance(column, str) for column in columns)
    header = rows[0] if named and rows else []
    places = [_place(file, column, header, len(rows[0]) if rows else 0) for column in columns]
    short = [number for number, row in enumerate(rows, start=1) if len(row) <= max(places)]
    if short:
        raise UserError(
            f"data: {file}: {len(short)} rows have less than {max(places) + 1} fields, the first is row {short[0]}"
        )
    return [[row[place] for place in places] for row in rows[1 if named else 0 :]]


def _place(file: Path, column: Column, header: Sequence[str], width: int) -> int:
    if isinstance(column, str):
        if column in header:
            return header.index(column)
        raise UserError(f"data: {file}: no column {column!r}; its first line has {', '.join(header)[:200]}; or give numbers")
    if not 0 <= column < width:
        raise UserError(f"data: {file}: no column {column}; the first row has {width} fields, numbers from 0")
    return column


def _json_lines(file: Path, columns: Sequence[Column]) -> list[list[str]]:
    rows: list[list[str]] = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"data: {file}: line {number} is no JSON") from None
        if not isinstance(row, dict):
            raise UserError(f"data: {file}: line {number} is no object; each line is one, with a value for each column")
        missing = [str(column) for column in columns if column not in row]
        if missing:
            raise UserError(f"data: {file}: line {number} has no {', '.join(missing)}; it has {', '.join(row)[:200]}")
        values = [_as_text(row[str(column)]) for column in columns]
        wrong = [str(column) for column, value in zip(columns, values, strict=True) if value is None]
        if wrong:
            fact = f"{', '.join(wrong)} is neither a text that UTF-8 has letters for nor a number"
            raise UserError(f"data: {file}: line {number}: {fact}")
        rows.append([value for value in values if value is not None])
    return rows


def _as_text(value: Any) -> str | None:
    """Return a value as text; None for what is neither text nor a finite number."""
    if isinstance(value, str):
        return value if _is_encodable(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def _is_encodable(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: Path) -> list[str]:
    """Return the lines of a file; other separators than line feeds are letters of a text."""
    return [line.removesuffix("\r") for line in _text(file).split("\n")]


def _text(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"data: {file}: no such file")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"data: {file}: {file.stat().st_size} bytes; at most {MOST_BYTES} are read")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data: {file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
