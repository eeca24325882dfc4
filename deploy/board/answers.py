"""What an agent's answer to each request must hold: it is another machine's, and may be anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from profiles.json_kinds import every, is_argument, is_count, is_integer, is_text, optional, table


def is_answer(do: str, result: object) -> bool:
    """Return whether an answer is of the kind that its request has."""
    return ANSWERS.get(do, _is_anything)(result)


def _is_anything(result: object) -> bool:
    return True


def _is_command(result: Any) -> bool:
    if not isinstance(result, dict) or set(result) != {"code", "stdout", "stderr"}:
        return False
    return is_integer(result["code"]) and is_text(result["stdout"]) and is_text(result["stderr"])


def _is_status(result: Any) -> bool:
    if not isinstance(result, dict):
        return False
    texts = all(is_argument(result.get(key)) for key in ("root", "python", "system"))
    lists = all(every(is_argument)(result.get(key)) for key in ("code", "jobs"))
    sizes = table(is_count)(result.get("size_bytes")) and is_count(result.get("free_bytes"))
    return texts and lists and sizes and "lock" in result and optional(is_argument)(result["lock"])


ANSWERS: dict[str, Callable[[object], bool]] = {
    "missing": table(is_count),
    "tree": is_argument,
    "work": is_argument,
    "start": is_argument,
    "run": _is_command,
    "status": _is_status,
}
"""Check of the answer to each request of which the answer is read; a listing's is checked where it is read."""
