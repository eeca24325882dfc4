"""Tables of TOML with a comment beside each key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Entry = tuple[str, Any, str]
"""Key, value and comment; a comment alone where the key is empty."""
WIDTH = 34
"""Columns before comments, where keys and values leave room."""


def toml(value: Any) -> str:
    """Write a value as TOML.

    Example:
        >>> toml({"use": "cwd", "weight": 3.0, "layers": ["a"]})
        '{ use = "cwd", weight = 3.0, layers = ["a"] }'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def table(header: str, entries: Sequence[Entry], *, off: bool = False) -> str:
    """Write a table; ``off`` makes a comment of it."""
    lines = [header]
    for key, value, comment in entries:
        line = f"{key} = {toml(value)}" if key else ""
        told = " ".join(comment.split())
        lines.append(f"{line:<{WIDTH}}  # {told}" if line and told else line or f"# {told}")
    return "\n".join(f"# {line}" if off else line for line in lines)
