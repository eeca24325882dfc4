"""Which range a tensor is quantised over, from a histogram of its values.

A histogram is streamed: memory does not grow with the number of samples. Each method is a pure
function ``(histogram, levels) -> (low, high)``; zero is always inside the range, since a
quantised zero must be exact (padding, ReLU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Range = tuple[float, float]

BINS = 2048


@dataclass
class Histogram:
    """Counts of a tensor's values over equal bins of ``[low, high]``, widened as values arrive.

    When a value lies outside, the span is doubled on that side and neighbouring bins are merged, so
    counts already taken stay exact to one (wider) bin. ``minimum`` and ``maximum`` are exact.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    low: float = 0.0
    high: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    def update(self, values: FloatArray) -> None:
        """Add ``values`` of any shape.

        Raises:
            ValueError: a value is not finite.
        """
        if values.size == 0:
            return
        smallest, largest = float(values.min()), float(values.max())
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise ValueError("values to calibrate on contain NaN or infinity")
        self.minimum, self.maximum = min(self.minimum, smallest), max(self.maximum, largest)
        self._cover(smallest, largest)
        self.counts += np.histogram(values, bins=BINS, range=(self.low, self.high))[0]

    def _cover(self, smallest: float, largest: float) -> None:
        if not self.counts.any():
            # Never narrower than float32 can tell the edges of bins apart.
            least = 0.01 * max(abs(smallest), abs(largest), 1e-6)
            self.low, self.high = smallest, max(largest, smallest + least)
            return
        while smallest < self.low:
            self.low -= self.high - self.low
            self.counts = np.concatenate([np.zeros(BINS // 2, np.int64), _merged(self.counts)])
        while largest > self.high:
            self.high += self.high - self.low
            self.counts = np.concatenate([_merged(self.counts), np.zeros(BINS // 2, np.int64)])

    @property
    def centres(self) -> FloatArray:
        """Middle of each bin, shape (BINS,)."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def _merged(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(counts.reshape(-1, 2).sum(axis=1))


def minmax(histogram: Histogram, levels: int) -> Range:
    """The whole range that was seen."""
    return _with_zero(histogram.minimum, histogram.maximum)


def percentile(histogram: Histogram, levels: int, *, keep: float = 0.9999) -> Range:
    """The shortest range, cut equally at both tails, that holds the fraction ``keep`` of all values."""
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1.0 - keep) / 2
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    low = edges[int(np.searchsorted(cumulative, tail, side="right"))]
    high = edges[min(int(np.searchsorted(cumulative, 1.0 - tail - 1e-12, side="left")) + 1, BINS)]
    return _with_zero(max(float(low), histogram.minimum), min(float(high), histogram.maximum))


def mse(histogram: Histogram, levels: int, *, steps: int = 80) -> Range:
    """The range ``t * [min, max]`` of least squared quantisation error over ``steps`` values of t.

    Clipping error of what falls outside and rounding error of what falls inside are both counted on
    the histogram, bin centre by bin centre.
    """
    low, high = minmax(histogram, levels)
    occupied = histogram.counts > 0
    values, counts = histogram.centres[occupied], histogram.counts[occupied]
    best, least = (low, high), float("inf")
    for t in np.linspace(1.0, 0.2, steps):
        error = float(np.dot(counts, (values - quantize_dequantize(values, (low * t, high * t), levels)) ** 2))
        if error < least:
            best, least = (low * float(t), high * float(t)), error
    return best


METHODS: dict[str, Callable[[Histogram, int], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def quantize_dequantize(values: FloatArray, span: Range, levels: int) -> FloatArray:
    """``values`` rounded to ``levels`` equal steps over ``span`` and clipped to it; same shape."""
    low, high = span
    if high <= low:
        return np.zeros_like(values)
    step = (high - low) / (levels - 1)
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step)


def _with_zero(low: float, high: float) -> Range:
    return min(low, 0.0), max(high, 0.0)
