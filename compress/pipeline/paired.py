"""The difference of two models on the same samples, with an interval: what both have right, or both wrong, tells nothing.

Scores of 0 and 1 (right or wrong): Tango's score interval for paired shares. Other scores, and metrics that are no mean over
samples: the bootstrap over samples (Efron 1979). All hold in 95 of 100 cases.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.pipeline.evaluation import Evaluation
from compress.pipeline.intervals import paired_difference

EACH_BOUND = 0.975
RESAMPLES = 2000


def drop_interval(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the interval in which the mean of ``reference - other`` lies in 95 of 100 cases.

    Args:
        reference, other: scores of shape (samples,), of the same samples.

    Example: no difference in 50 samples, 1.96 ** 2 / (50 + 1.96 ** 2):
        >>> low, high = drop_interval(np.ones(50), np.ones(50))
        >>> print(f"{low:.4f} to {high:.4f}")
        -0.0713 to 0.0713
    """
    assert reference.shape == other.shape and reference.ndim == 1 and len(reference)
    difference = reference.astype(np.float64) - other
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        lost, won = (int((difference == sign).sum()) for sign in (1, -1))
        found = paired_difference(lost, won, len(difference), EACH_BOUND)
        return found.low, found.high
    chosen = np.random.default_rng(0).integers(0, len(difference), (RESAMPLES, len(difference)))
    low, high = np.quantile(difference[chosen].mean(axis=1), (1 - EACH_BOUND, EACH_BOUND))
    return float(low), float(high)


def drop_in_points(reference: Evaluation, other: Evaluation, scale: float) -> tuple[float, float] | None:
    """Return the interval of the drop below the reference in points; None where nothing tells it.

    Args:
        reference, other: on the same split.
        scale: of the metric; a point is a hundredth of it.
    """
    if reference.scores is not None and other.scores is not None:
        low, high = drop_interval(reference.scores, other.scores)
        return 100 * low, 100 * high
    if reference.drawn is None or other.drawn is None:
        return None
    common = min(len(reference.drawn), len(other.drawn))  # draws are the same for both; one may have had fewer
    drops = 100 / scale * (reference.drawn[:common] - other.drawn[:common])
    low, high = np.quantile(drops, (1 - EACH_BOUND, EACH_BOUND))
    return float(low), float(high)


def samples_needed(interval: tuple[float, float], samples: int, least: float) -> int:
    """Return how many samples tell a difference of ``least`` from none: intervals shrink with the root of their number."""
    half = (interval[1] - interval[0]) / 2
    return math.ceil(samples * (half / least) ** 2)
