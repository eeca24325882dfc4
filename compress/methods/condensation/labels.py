"""Class labels of a split, and how many of each class there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.data.base import Indices

CHUNK, MOST_NAMED = 512, 5


def targets_of(samples: Samples) -> npt.NDArray[Any]:
    """Return the targets of a split, (samples, ...); from memory where it keeps them there."""
    kept = getattr(samples, "labels", None)
    if isinstance(kept, np.ndarray) and len(kept) == len(samples):
        return kept
    return np.concatenate([batch.targets for batch in samples.batches(CHUNK)])


def are_classes(targets: npt.NDArray[Any]) -> bool:
    """Return whether targets are one class number a sample, -1 where there is none."""
    return targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)


def class_faults(targets: npt.NDArray[Any], classes: Sequence[str], per_class: int, what: str) -> list[str]:
    """Say which classes have fewer pictures than ``per_class``, in one line."""
    if not are_classes(targets) or not len(classes):
        return [f"{what}: per_class needs one class label a sample; given: targets {targets.shape}; give samples = N"]
    counts = np.bincount(targets[targets >= 0], minlength=len(classes))
    short = [f"{classes[i]} {counts[i]}" for i in np.flatnonzero(counts < per_class).tolist()]
    if not short:
        return []
    more = f" and {len(short) - MOST_NAMED} more" if len(short) > MOST_NAMED else ""
    there = ", ".join(short[:MOST_NAMED])
    fact = f"{what}: {per_class} of each class are asked for, and the training split has of {there}{more}"
    return [f"{fact}; ask for at most {counts.min()}, or give samples = N"]


def balanced(targets: npt.NDArray[Any], count: int, rank: npt.NDArray[np.float64], classes: int) -> Indices:
    """Choose ``count`` samples of least ``rank``, as many of each class as there are, the first classes one more.

    Args:
        targets: class numbers; a class with fewer samples leaves its places to the others.

    Example:
        >>> balanced(np.array([0, 0, 1, 1, 1]), 4, np.array([2.0, 1.0, 3.0, 1.0, 2.0]), 2).tolist()
        [0, 1, 3, 4]
    """
    order = np.argsort(rank, kind="stable")
    place = np.empty(len(targets), np.int64)
    for label in range(-1, classes):
        mine = order[targets[order] == label]
        place[mine] = np.arange(len(mine))
    known = np.flatnonzero(targets >= 0)
    turn = np.lexsort((targets[known], place[known]))  # every class's best, then every class's second
    return np.sort(known[turn[:count]])
