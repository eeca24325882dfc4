"""What an attempt at a model found out, kept for milder ones at the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

T = TypeVar("T")


@final
class Attempts:
    """Findings of attempts at one starting model: a milder one measures nothing again that a harsher one did."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Any] = {}

    def once(self, what: str, decided_by: object, make: Callable[[], T]) -> T:
        """Return a finding, made if it is not there.

        Args:
            decided_by: all that it depends on besides the starting model; its ``repr`` tells findings apart.

        Example:
            >>> attempts = Attempts()
            >>> attempts.once("damage", ("l2", 8), lambda: 0.25), attempts.once("damage", ("l2", 8), lambda: 1.0)
            (0.25, 0.25)
        """
        key = (what, repr(decided_by))
        if key not in self._found:
            self._found[key] = make()
        found: T = self._found[key]
        return found
