"""Selection of calibration samples.

``random`` is a strong baseline: every other method has to beat it (``python -m tests.bench select``). Features and
probabilities are the teacher's, arrays of shape (samples, features) and (samples, classes).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


def random(labels: npt.NDArray[np.integer], count: int, seed: int) -> Indices:
    """Draw ``count`` indices without replacement, sorted; all of them when there are fewer."""
    total = len(labels)
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    return np.sort(chosen).astype(np.int64)


def balanced(labels: npt.NDArray[np.integer], count: int, seed: int) -> Indices:
    """Draw ``count`` indices, equally many of each class where possible; sorted."""
    rng = np.random.default_rng(seed)
    piles = [list(rng.permutation(np.flatnonzero(labels == c))) for c in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < count and any(piles):
        chosen += [int(pile.pop()) for pile in piles if pile][: count - len(chosen)]
    return np.sort(np.array(chosen, np.int64))


def herding(features: Floats, count: int, seed: int = 0) -> Indices:
    """Choose ``count`` indices greedily to keep their mean feature nearest to that of all (Welling 2009).

    Deterministic; the seed is there for the table.
    """
    given = np.asarray(features, np.float64)
    mean, total = given.mean(axis=0), np.zeros(given.shape[1])
    free = np.ones(len(given), bool)
    for number in range(1, min(count, len(given)) + 1):
        apart = np.square(mean - (total + given) / number).sum(axis=1)
        chosen = int(np.where(free, apart, np.inf).argmin())
        free[chosen], total = False, total + given[chosen]
    return np.flatnonzero(~free).astype(np.int64)


def k_centre(features: Floats, count: int, seed: int) -> Indices:
    """Choose ``count`` indices by the greedy k-centre rule: each next is the farthest (Sener & Savarese 2018).

    Greedy, within twice the least possible radius; the first is drawn by ``seed``.
    """
    given = np.asarray(features, np.float64)
    if count <= 0 or not len(given):
        return np.zeros(0, np.int64)
    chosen = [int(np.random.default_rng(seed).integers(len(given)))]
    nearest = np.square(given - given[chosen[0]]).sum(axis=1)
    while len(chosen) < min(count, len(given)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(given - given[chosen[-1]]).sum(axis=1))
    return np.sort(np.array(chosen, np.int64))


def entropy(probabilities: Floats, count: int, seed: int = 0) -> Indices:
    """Choose ``count`` indices spread over the teacher's entropy: one from each equal slice of the ranking, by ``seed``.

    Only the most unsure would be outliers, whose ranges nothing else needs.
    """
    p = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1)
    ranking = np.argsort((p * np.log(p)).sum(axis=1), kind="stable")
    rng = np.random.default_rng(seed)
    slices = np.array_split(ranking, min(count, len(ranking)))
    return np.sort(np.array([int(rng.choice(each)) for each in slices if len(each)], np.int64))


def coverage(activations: Floats, count: int, seed: int = 0, *, bins: int = 16) -> Indices:
    """Choose ``count`` indices for the most bins of each feature's range; the rest by ``seed``.

    Each next one adds the most bins that are not covered yet (greedy, so at least 63 % of the best possible).
    """
    given = np.asarray(activations, np.float64)
    low, high = given.min(axis=0), given.max(axis=0)
    cell = np.minimum(((given - low) / np.maximum(high - low, 1e-30) * bins).astype(np.int64), bins - 1)
    flat = cell + bins * np.arange(given.shape[1])
    covered, free = np.zeros(bins * given.shape[1], bool), np.ones(len(given), bool)
    wanted = min(count, len(given))
    while (~free).sum() < wanted:
        gain = np.where(free, (~covered[flat]).sum(axis=1), -1)
        chosen = int(gain.argmax())
        if gain[chosen] <= 0:
            break
        free[chosen] = False
        covered[flat[chosen]] = True
    left = np.flatnonzero(free)
    free[np.random.default_rng(seed).permutation(left)[: wanted - int((~free).sum())]] = False
    return np.flatnonzero(~free).astype(np.int64)


METHODS: dict[str, Callable[[npt.NDArray[np.integer], int, int], Indices]] = {
    "random": random,
    "balanced": balanced,
}
"""By labels."""

BY_FEATURES: dict[str, Callable[[Floats, int, int], Indices]] = {
    "herding": herding,
    "k_centre": k_centre,
    "coverage": coverage,
}
"""By what the teacher makes of the samples; ``entropy`` by its probabilities."""
