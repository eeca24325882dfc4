"""Quantisation ranges of a tensor from a histogram of its values.

A histogram is streamed: memory does not grow with the number of samples. Each method is a pure
function ``(histogram, levels) -> (low, high)``; zero is always inside the range, since a
quantised zero must be exact (padding, ReLU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Range = tuple[float, float]

BINS = 2048
BLOCK = 1 << 16
"""Values that are counted at once: what they need stays in the processor's cache."""
SHORTEST, SWEEPS, TIE = 0.2, 3, 1e-9


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
        self.counts += _counted(values, self.low, self.high)

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

    def add(self, other: Histogram) -> None:
        """Add the counts of ``other``, each bin at its centre."""
        if not other.counts.any():
            return
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._cover(other.low, other.high)
        places = (other.centres - self.low) * (BINS / (self.high - self.low))
        np.add.at(self.counts, np.clip(places.astype(np.int64), 0, BINS - 1), other.counts)

    @property
    def centres(self) -> FloatArray:
        """Middle of each bin, shape (BINS,)."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Merge histograms into one; a single one is returned as it is."""
    if len(histograms) == 1:
        return histograms[0]
    total = Histogram()
    for histogram in histograms:
        total.add(histogram)
    return total


def _counted(values: FloatArray, low: float, high: float) -> npt.NDArray[np.int64]:
    """How many of ``values``, all in ``[low, high]``, fall into each bin; shape (BINS,).

    A value nearer to an edge of bins than the rounding of its own type may count in the neighbour. What numpy.histogram
    does beyond this takes it three times as long.
    """
    scale = BINS / (high - low)
    counts = np.zeros(BINS + 1, np.int64)
    flat = values.ravel()
    place = np.empty(min(BLOCK, flat.size), np.result_type(flat, np.float32))
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        bins = np.multiply(part, scale, out=place[: part.size])
        bins -= low * scale
        counts += np.bincount(bins.astype(np.int32), minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]  # the last bin holds its upper edge
    return counts[:BINS]


def _merged(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray(counts.reshape(-1, 2).sum(axis=1))


def minmax(histogram: Histogram, levels: int) -> Range:
    """Return the range of all values."""
    return _with_zero(histogram.minimum, histogram.maximum)


def percentile(histogram: Histogram, levels: int, *, keep: float = 0.9999) -> Range:
    """Return the shortest range, cut equally at both tails, with the fraction ``keep`` of all values."""
    cumulative = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1.0 - keep) / 2
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    low = edges[int(np.searchsorted(cumulative, tail, side="right"))]
    high = edges[min(int(np.searchsorted(cumulative, 1.0 - tail - 1e-12, side="left")) + 1, BINS)]
    return _with_zero(max(float(low), histogram.minimum), min(float(high), histogram.maximum))


def mse(histogram: Histogram, levels: int) -> Range:
    """Search the range of least squared quantisation error, each end from the extreme down to a fifth of it.

    Clipping error of what falls outside and rounding error of what falls inside are both counted on
    the histogram, bin centre by bin centre.
    """
    return norm(histogram, levels, power=2.0)


def norm(histogram: Histogram, levels: int, *, power: float = 2.4, steps: int = 40) -> Range:
    """Search the range of least error as ``mse`` does, with a larger power: clipping counts more than rounding.

    The power is BRECQ's (Li et al. 2021), after the Lp ranges of LAPQ (Nahshan et al. 2021).
    """
    occupied = histogram.counts > 0
    values, counts = histogram.centres[occupied], histogram.counts[occupied]

    def error(span: Range) -> float:
        return float(np.dot(counts, np.abs(values - quantize_dequantize(values, span, levels)) ** power))

    return _least(error, minmax(histogram, levels), steps)


def _least(cost: Callable[[Range], float], whole: Range, steps: int) -> Range:
    """The range of least cost, its ends moved in turns: what has a long tail on one side keeps the other side whole."""
    best, least = whole, cost(whole)
    for _ in range(SWEEPS):
        before = best
        for end in (1, 0):
            for t in np.linspace(1.0, SHORTEST, steps):
                tried = (best[0], whole[1] * float(t)) if end else (whole[0] * float(t), best[1])
                if tried != best and (value := cost(tried)) < least - TIE * abs(least):
                    best, least = tried, value
        if best == before:
            break
    return best


def entropy(histogram: Histogram, levels: int, *, steps: int = 40) -> Range:
    """Search the range whose quantised distribution has the least KL divergence from the values.

    TensorRT's calibration (Migacz 2017, "8-bit Inference with TensorRT"): what a range clips is counted at its ends in the
    reference and not in the quantised distribution, in which each level's count is spread over its occupied bins.
    """
    occupied = histogram.counts > 0
    values, counts = histogram.centres[occupied], histogram.counts[occupied].astype(np.float64)
    return _least(lambda span: _divergence(values, counts, span, levels), minmax(histogram, levels), steps)


def _divergence(values: FloatArray, counts: FloatArray, span: Range, levels: int) -> float:
    """KL divergence of clipped counts from their quantised form, in nats; infinite when a range holds no value."""
    low, high = span
    inside = (values >= low) & (values <= high)
    if high <= low or not inside.any():
        return float("inf")
    kept, seen = values[inside], counts[inside]
    reference = seen.copy()
    reference[0] += counts[values < low].sum()
    reference[-1] += counts[values > high].sum()
    level = np.round((kept - low) / (high - low) * (levels - 1)).astype(np.int64)
    spread = np.bincount(level, seen, levels)[level] / np.bincount(level, minlength=levels)[level]
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(np.dot(p, np.log(p / q)))


def symmetric_scales(channels: FloatArray, limit: int, *, steps: int = 40) -> npt.NDArray[np.float32]:
    """Search each row's scale of least squared error for rounding to ``-limit .. limit``.

    Args:
        channels: (channels, values); the whole of it in one row for a scale a tensor.

    Returns:
        (channels,); 1 / limit for a row of zeros.
    """
    largest = np.abs(channels).max(axis=1)
    whole = np.where(largest > 0, largest, 1.0) / limit
    best, least = whole.copy(), np.full(len(channels), np.inf)
    for t in np.linspace(1.0, 0.4, steps):
        scale = (whole * t)[:, None]
        error = np.square(channels - np.clip(np.rint(channels / scale), -limit, limit) * scale).sum(axis=1)
        better = error < least
        best[better], least[better] = (whole * t)[better], error[better]
    return np.asarray(best, np.float32)


METHODS: dict[str, Callable[[Histogram, int], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "norm": norm,
    "entropy": entropy,
}


def quantize_dequantize(values: FloatArray, span: Range, levels: int) -> FloatArray:
    """Round ``values`` to ``levels`` equal steps over ``span``, clipped to it; same shape."""
    low, high = span
    if high <= low:
        return np.zeros_like(values)
    step = (high - low) / (levels - 1)
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step)


def _with_zero(low: float, high: float) -> Range:
    return min(low, 0.0), max(high, 0.0)
