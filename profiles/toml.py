"""Reading of TOML by the standard library; on a board with Python 3.10 by tomli, where it is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from profiles.errors import UserError

MOST_BYTES = 2**20
MOST_DEPTH = 32
"""Lists and tables within one another."""

LARGEST_INTEGER = 2**63


def read_toml(path: Path) -> dict[str, Any]:
    """Read the table in ``path``: UTF-8, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, is not TOML, or exceeds the bounds of size, depth and numbers (64 bits).
    """
    return parse_toml(_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse the table in ``text``; ``where`` begins each fault.

    Raises:
        UserError: it is not TOML, or exceeds the bounds of depth and numbers (64 bits).
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: not TOML: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; lists within lists within lists
        raise UserError(f"{where}: not TOML: nested too deeply, or a number of too many digits") from None
    if faults := [f"{where}: {fault}" for fault in _out_of_bounds(table)]:
        raise UserError(*faults)
    return table


def table_of(value: Any, where: str, faults: list[str]) -> dict[str, Any]:
    """Return ``value`` where it is a table; else an empty one, and its fault is added to ``faults``."""
    if isinstance(value, dict):
        return value
    faults.append(f"{where} is a table of key = value; given: {shown(value)}")
    return {}


def tables_of(value: Any, where: str, faults: list[str]) -> list[dict[str, Any]]:
    """Return ``value`` where it is a list of tables; else those that are, and faults are added to ``faults``."""
    if not isinstance(value, list):
        faults.append(f"{where} is a list of tables, each under [[...]]; given: {shown(value)}")
        return []
    return [table_of(entry, f"{where} {number}", faults) for number, entry in enumerate(value, 1)]


def shown(value: Any, most: int = 80) -> str:
    """Return the beginning of a wrong value, for an error."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or 'no path'}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: more than {MOST_BYTES:,} bytes, which no recipe or profile has")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: not TOML: line {line} is not UTF-8; save the file as UTF-8") from None


def _out_of_bounds(table: dict[str, Any]) -> list[str]:
    """List integers beyond 64 bits and what is nested too deeply; without recursion."""
    faults: list[str] = []
    open_values: list[tuple[str, Any, int]] = [("", table, 0)]
    while open_values:
        key, value, depth = open_values.pop()
        if isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            faults.append(f"{key} is a number of more than 64 bits, which TOML does not have")
        if depth > MOST_DEPTH:
            faults.append(f"{key[:MOST_DEPTH]}...: more than {MOST_DEPTH} lists or tables within one another")
            continue
        if isinstance(value, dict):
            open_values += [(f"{key}.{name}" if key else str(name), each, depth + 1) for name, each in value.items()]
        elif isinstance(value, list):
            open_values += [(key, each, depth + 1) for each in value]
    return faults
