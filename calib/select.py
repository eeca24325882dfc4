"""Which samples the ranges are taken from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def random(labels: npt.NDArray[np.integer], count: int, seed: int) -> Indices:
    """``count`` indices drawn without replacement, sorted; all of them when there are fewer."""
    total = len(labels)
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    return np.sort(chosen).astype(np.int64)


def balanced(labels: npt.NDArray[np.integer], count: int, seed: int) -> Indices:
    """``count`` indices, the same number of each class as far as there are so many; sorted."""
    rng = np.random.default_rng(seed)
    piles = [list(rng.permutation(np.flatnonzero(labels == c))) for c in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < count and any(piles):
        chosen += [int(pile.pop()) for pile in piles if pile][: count - len(chosen)]
    return np.sort(np.array(chosen, np.int64))


METHODS: dict[str, Callable[[npt.NDArray[np.integer], int, int], Indices]] = {
    "random": random,
    "balanced": balanced,
}
