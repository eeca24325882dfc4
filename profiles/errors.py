"""Errors of the user's input, and their wording."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Fault in the user's input: one line per fault, all at once; the command line exits with 2.

    Each fault names the fact, what was given, what is allowed and what to do. A bug is never a
    ``UserError``: it keeps its traceback.
    """

    def __init__(self, *faults: str) -> None:
        assert faults, "a UserError tells at least one fault"
        # A name from elsewhere may hold line breaks.
        self.faults = tuple(" ".join(fault.splitlines()) for fault in faults)
        super().__init__("\n".join(self.faults))


class OutOfReachError(UserError):
    """Target that this device cannot reach, found before any work is lost; the command line exits with 3."""


def unknown(kind: str, given: str, allowed: Iterable[str], where: str = "") -> str:
    """Word the fault of an unknown name: ``unknown stage 'prun' (did you mean 'prune'?)``."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1) or [name for name in names if given and name.startswith(given)]
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    place = f"{where}: " if where else ""
    return f"{place}unknown {kind} {given!r}{hint}; known: {', '.join(names)}"


MOST_LINE = 500
"""Characters of an error's line."""


def first_line(error: BaseException, most: int = 120) -> str:
    """Return the first line of what an error says, at most so long; its class where it says nothing."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0], most)


def kind_with_article(value: object) -> str:
    """Return the name of a value's type with its article.

    Example:
        >>> kind_with_article(3)
        'an int'
    """
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def one_line(text: str, most: int = MOST_LINE) -> str:
    """Return ``text`` as one printable line of at most ``most`` characters; the middle of a longer one is left out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 5]} ... {line[-tail:]}"
