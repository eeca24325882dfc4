"""What an agent's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST_BYTES = 1 << 62


def is_answer(do: str, result: object) -> bool:
    """Return whether an answer is of the kind that its request has."""
    return ANSWERS.get(do, _is_anything)(result)


def _is_anything(result: object) -> bool:
    return True


def _is_text(result: object) -> bool:
    return isinstance(result, str) and "\0" not in result


def _is_count(result: object) -> bool:
    return isinstance(result, int) and not isinstance(result, bool) and 0 <= result < MOST_BYTES


def _are_texts(result: object) -> bool:
    return isinstance(result, list) and all(map(_is_text, result))


def _are_sizes(result: object) -> bool:
    return isinstance(result, dict) and all(map(_is_count, result.values()))


def _is_command(result: Any) -> bool:
    if not isinstance(result, dict) or set(result) != {"code", "stdout", "stderr"}:
        return False
    return type(result["code"]) is int and isinstance(result["stdout"], str) and isinstance(result["stderr"], str)


def _is_status(result: Any) -> bool:
    if not isinstance(result, dict):
        return False
    texts = all(_is_text(result.get(key)) for key in ("root", "python", "system"))
    lists = all(_are_texts(result.get(key)) for key in ("code", "jobs"))
    sizes = _are_sizes(result.get("size_bytes")) and _is_count(result.get("free_bytes"))
    return texts and lists and sizes and "lock" in result and (result["lock"] is None or _is_text(result["lock"]))


ANSWERS: dict[str, Callable[[object], bool]] = {
    "missing": _are_sizes,
    "tree": _is_text,
    "work": _is_text,
    "start": _is_text,
    "run": _is_command,
    "status": _is_status,
}
"""Check of the answer to each request of which the answer is read; a listing's is checked where it is read."""
