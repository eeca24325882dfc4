"""JSON that others wrote: what is none raises one kind of error, however it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, not UTF-8, holds a number of thousands of digits, or is nested too deeply.

    Example:
        >>> parse_json('{"a": [1]}')
        {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(file: Path, most_bytes: int = 1 << 26) -> Any:
    """Read a file of JSON, of which no more is read than ``most_bytes``.

    Raises:
        ValueError: as ``parse_json``, or it is longer.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        content = opened.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes:,} bytes")
    return parse_json(content)
