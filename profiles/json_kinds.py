"""Kinds of JSON values from elsewhere: another machine's answer may be anything, and is read only once it is checked.

Each check takes any value and says whether it is of the kind; none raises. Those of lists and objects are made of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MOST_COUNT = 2**62
"""More is no count of anything here, and JSON's integers have no end."""
MOST_TEXT = 1000

Check = Callable[[object], bool]


def is_integer(value: object) -> bool:
    """Say whether a value is a whole number; true and false are none.

    Example:
        >>> is_integer(True), is_integer(-3)
        (False, True)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Say whether a value is a whole number from 0 to below ``MOST_COUNT``."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT


def is_finite(value: object) -> bool:
    """Say whether a value is a number that is neither infinite nor NaN, nor beyond ``MOST_COUNT`` on either side."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < MOST_COUNT and math.isfinite(value)  # type: ignore[arg-type]


def is_number(value: object) -> bool:
    """Say whether a value is a finite number that is not negative: an amount, milliseconds, bytes."""
    return is_finite(value) and value >= 0  # type: ignore[operator]


def is_text(value: object) -> bool:
    """Say whether a value is a text, of any length; see ``is_line`` for what is shown."""
    return isinstance(value, str)


def is_argument(value: object) -> bool:
    """Say whether a value is a text that a path or a command can hold: without NUL and halves of surrogate pairs.

    Example:
        >>> is_argument("café"), is_argument("a\\0b"), is_argument("\\ud800")
        (True, False, False)
    """
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_line(value: object) -> bool:
    """Say whether a value is a text of one printable line of at most ``MOST_TEXT`` characters."""
    return isinstance(value, str) and value.isprintable() and len(value) <= MOST_TEXT


def optional(check: Check) -> Check:
    """Make the check of null, or what ``check`` takes."""
    return lambda value: value is None or check(value)


def every(check: Check) -> Check:
    """Make the check of a list of what ``check`` takes."""
    return lambda values: isinstance(values, list) and all(map(check, values))


def table(check: Check) -> Check:
    """Make the check of an object whose values ``check`` takes."""
    return lambda values: isinstance(values, dict) and all(map(check, values.values()))


def record(kinds: Mapping[str, Check]) -> Callable[[Any], bool]:
    """Make the check of an object with no other keys than those of ``kinds``; which may be missing is the record's own."""
    return lambda data: isinstance(data, dict) and all(key in kinds and kinds[key](value) for key, value in data.items())
