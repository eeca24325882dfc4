"""Intervals and tests of paired figures: numpy and the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal, final

import numpy as np


@final
@dataclass(frozen=True)
class Interval:
    """Estimate and the bounds that what is estimated lies between, each at the same one-sided confidence."""

    low: float
    middle: float
    high: float

    def against(self, limit: float) -> Literal["fine", "worse", "cannot tell"]:
        """Judge a figure that may be at most ``limit``; larger is worse.

        Example:
            >>> [Interval(low, middle, middle + 1).against(3.0) for low, middle in ((0, 1), (2, 3), (4, 5))]
            ['fine', 'cannot tell', 'worse']
        """
        if self.low > limit:
            return "worse"
        return "fine" if self.high <= limit else "cannot tell"


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Return Student's interval for the mean of independent values, two or more; each bound holds with ``confidence``."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = student_quantile(confidence, len(values) - 1) * spread / math.sqrt(len(values))
    return Interval(mean - reach, mean, mean + reach)


def values_needed(values: Sequence[float], limit: float, confidence: float) -> float:
    """Estimate how many values like these it takes until their mean is shown to be on its side of ``limit``."""
    distance = abs(float(np.mean(values)) - limit)
    reach = NormalDist().inv_cdf(confidence) * float(np.std(values, ddof=1))
    return math.inf if distance == 0 else (reach / distance) ** 2


@cache
def student_quantile(share: float, degrees: int) -> float:
    """Return what Student's t with so many degrees of freedom stays below in ``share`` (0.5 to 1) of cases.

    By bisection of its distribution function, whose finite sums are exact (Abramowitz and Stegun 26.7.3 and 26.7.4).

    Example:
        >>> round(student_quantile(0.975, 10), 3)
        2.228
    """
    low, high = 0.0, 1.0
    while _student_share(high, degrees) < share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, degrees) < share else (low, middle)
    return high


def _student_share(t: float, degrees: int) -> float:
    """Return the probability that Student's t is below ``t`` (0 or more)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(2, degrees - 1, 2):
            term *= cosine * cosine * k / (k + 1)
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term = total = 1.0
        for k in range(1, degrees - 2, 2):
            term *= cosine * cosine * k / (k + 1)
            total += term
        inside = sine * total
    return (1 + inside) / 2


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p value that as many samples are lost as won (McNemar 1947).

    Args:
        lost: samples that the old model has right and the new one wrong.
        won: the other way round.

    Example:
        >>> mcnemar(5, 0)
        0.0625
    """
    total, most = lost + won, max(lost, won)
    tail = sum(math.comb(total, k) for k in range(most, total + 1)) / float(2**total)
    return min(1.0, 2 * tail)


def paired_difference(lost: int, won: int, samples: int, confidence: float) -> Interval:
    """Return the score interval for the share of samples lost less the share won (Tango 1998, Statistics in Medicine 17).

    It holds where few samples or none differ, where the textbook's has no width. Each bound holds with ``confidence``.

    Example: no difference seen in 50 is up to z^2 / (50 + z^2) of them:
        >>> found = paired_difference(0, 0, 50, 0.975)
        >>> round(found.low, 4), round(found.high, 4)
        (-0.0713, 0.0713)
    """
    z, middle = NormalDist().inv_cdf(confidence), (lost - won) / samples
    high = _edge(lost, won, samples, z, middle, 1.0)
    low = -_edge(won, lost, samples, z, -middle, 1.0)
    return Interval(low, middle, high)


def _edge(more: int, less: int, samples: int, z: float, low: float, high: float) -> float:
    """Return the largest difference that the score test at ``z`` does not refuse, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(more, less, samples, middle) >= -z:
            low = middle
        else:
            high = middle
    return low


def _score(more: int, less: int, samples: int, difference: float) -> float:
    """Return Tango's score statistic of ``difference``."""
    a = 2 * samples
    b = -more - less + (2 * samples - more + less) * difference
    c = -less * difference * (1 - difference)
    root = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = samples * (2 * root + difference * (1 - difference))
    above = more - less - samples * difference
    if variance <= 0:
        return 0.0 if above == 0 else math.copysign(math.inf, above)
    return above / math.sqrt(variance)
