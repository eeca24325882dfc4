"""Answers as plain data, to be kept and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-3


def summary(answer: Any) -> Any:
    """Return an answer as plain data; of an array its shape, type and mean."""
    if isinstance(answer, Mapping):
        return {key: summary(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [summary(value) for value in answer]
    if isinstance(answer, np.ndarray):
        return {
            "shape": list(answer.shape),
            "dtype": str(answer.dtype),
            "mean": float(answer.mean()) if answer.size else 0.0,
        }
    return answer.item() if isinstance(answer, np.generic) else answer


def is_alike(one: Any, other: Any) -> bool:
    """Return whether two summaries are the same, numbers to ``TOLERANCE`` (of 1, or of themselves above it)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(is_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(is_alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) or isinstance(other, float):
        is_number = isinstance(one, int | float) and isinstance(other, int | float)
        return is_number and abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))
    return bool(one == other)
