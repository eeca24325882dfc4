"""The difference of two models on the same samples, with an interval: what both have right, or both wrong, tells nothing.

Scores of 0 and 1 (right or wrong): Wald's interval of the difference of matched proportions with half a sample added to each
of the four cells (Agresti and Min, Simple improved confidence intervals for comparing matched proportions, 2005): it holds
from a few samples on and always has a width. Other scores: the bootstrap over samples (Efron 1979).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.96
"""Quantile of the normal distribution for 95 of 100 intervals."""
RESAMPLES = 2000
CELLS = 4


def drop_interval(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the interval in which the mean of ``reference - other`` lies in 95 of 100 cases.

    Args:
        reference, other: scores of shape (samples,), of the same samples.

    Example:
        >>> low, high = drop_interval(np.ones(100), np.array([0.0] * 5 + [1.0] * 95))
        >>> print(f"{low:.3f} to {high:.3f}")
        0.001 to 0.097
    """
    assert reference.shape == other.shape and reference.ndim == 1 and len(reference)
    difference = reference.astype(np.float64) - other
    if not np.isin(difference, (-1.0, 0.0, 1.0)).all():
        chosen = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
        low, high = np.quantile(difference[chosen].mean(axis=1), (0.025, 0.975))
        return float(low), float(high)
    samples = len(difference) + CELLS / 2
    lost, won = (float((difference == sign).sum()) + 0.5 for sign in (1, -1))
    middle = (lost - won) / samples
    width = Z * math.sqrt(lost + won - (lost - won) ** 2 / samples) / samples
    return middle - width, middle + width


def samples_needed(interval: tuple[float, float], samples: int, least: float) -> int:
    """Return how many samples tell a difference of ``least`` from none: intervals shrink with the root of their number."""
    half = (interval[1] - interval[0]) / 2
    return math.ceil(samples * (half / least) ** 2)
