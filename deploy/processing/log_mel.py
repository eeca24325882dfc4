"""Log-mel spectra as two convolutions, in numpy: what a front end inside a model computes, and what feeds a model without.

The first convolution is the short-time Fourier transform: sines and cosines under a Hann window, a row each, from hop to
hop. The second adds up the squares of its results under triangles that are evenly wide in mels (Stevens et al. 1937; the
formula is O'Shaughnessy's, 1987, as in HTK). Then comes the logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from profiles.errors import UserError

FULL_SCALE = 2.0**14
"""Power of a sine at full scale in its own bin. It and ``FLOOR`` are both normal numbers of 16 bits."""

FLOOR = FULL_SCALE * 10**-8
"""Added to the power of each mel before the logarithm: 80 dB below a sine at full scale."""

CENTRE, SPREAD = math.log(FULL_SCALE) / 2 + math.log(FLOOR) / 2, 4.0
"""Taken off, and divided by, after the logarithm: results lie between about -2.3 and 2.4."""

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Settings of a log-mel spectrum.

    Attributes:
        rate: samples a second.
        window_ms, hop_ms: milliseconds of a frame, and from one to the next.
        mels: rows of the spectrum.
        low_hz, high_hz: where the lowest triangle begins and the highest ends; 0 for half of the rate.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    rate: int = 16000
    window_ms: float = 32.0
    hop_ms: float = 16.0
    mels: int = 40
    low_hz: float = 20.0
    high_hz: float = 0.0

    def __post_init__(self) -> None:
        faults: list[str] = []
        if self.rate < 1:
            faults.append(f"log-mel: rate is samples a second, such as 16000; given: {self.rate}")
        if not self.hop_ms > 0 or not self.window_ms > 0 or self.hop < 1 or self.window < 8:
            words = "window_ms and hop_ms are milliseconds, of 8 samples and of one at least"
            faults.append(f"log-mel: {words}; given: {self.window_ms:g} and {self.hop_ms:g} at {self.rate} Hz")
        if self.mels < 1:
            faults.append(f"log-mel: mels is a number of rows, 1 or more; given: {self.mels}")
        if not 0 <= self.low_hz < self.top_hz <= self.rate / 2:
            words = f"low_hz is below high_hz, and that at most half of the rate, {self.rate / 2:g} (0 for that)"
            faults.append(f"log-mel: {words}; given: {self.low_hz:g} and {self.high_hz:g}")
        if faults:
            raise UserError(*faults)

    @property
    def top_hz(self) -> float:
        """Where the highest triangle ends."""
        return self.high_hz or self.rate / 2

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.rate * self.hop_ms / 1000)

    def frames(self, samples: int) -> int:
        """Return how many frames fit into a recording."""
        return (samples - self.window) // self.hop + 1

    def kernels(self) -> tuple[Array, Array]:
        """Return the rows of both convolutions: (2 bins, window) and (mels, 2 bins), float32."""
        first = math.floor(self.low_hz * self.window / self.rate)
        last = math.ceil(self.top_hz * self.window / self.rate)
        bins = np.arange(first, min(last, self.window // 2) + 1)
        turns = 2 * np.pi * bins[:, None] * np.arange(self.window) / self.window
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        scale = math.sqrt(FULL_SCALE) * 2 / hann.sum()
        waves = np.concatenate([np.cos(turns), np.sin(turns)]) * hann * scale
        triangles = _triangles(bins * self.rate / self.window, self.low_hz, self.top_hz, self.mels)
        return waves.astype(np.float32), np.concatenate([triangles, triangles], axis=1).astype(np.float32)

    def __call__(self, recordings: Array) -> Array:
        """Compute the spectra (..., mels, frames) of recordings (..., samples), float32; full scale of a sample is 1."""
        waves, triangles = self.kernels()
        frames = np.lib.stride_tricks.sliding_window_view(recordings, self.window, axis=-1)[..., :: self.hop, :]
        power = (frames @ waves.T) ** 2 @ triangles.T
        result: Array = ((np.log(power + FLOOR) - CENTRE) / SPREAD).astype(np.float32)
        return np.ascontiguousarray(np.swapaxes(result, -1, -2))


def to_mel(hz: Any) -> Any:
    """Convert frequencies to mels."""
    return 2595.0 * np.log10(1 + np.asarray(hz) / 700.0)


def to_hz(mel: Any) -> Any:
    """Convert mels to frequencies."""
    return 700.0 * (10 ** (np.asarray(mel) / 2595.0) - 1)


def _triangles(hz: Array, low_hz: float, high_hz: float, mels: int) -> Array:
    """Compute each triangle's weight of each bin, (mels, bins), 1 at its peak; one between two bins has the nearest."""
    corners = to_hz(np.linspace(to_mel(low_hz), to_mel(high_hz), mels + 2))
    rising = (hz - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - hz) / np.diff(corners)[1:, None]
    weights: Array = np.minimum(rising, falling).clip(min=0)
    for row in np.flatnonzero(weights.sum(axis=1) == 0):
        weights[row, np.abs(hz - corners[row + 1]).argmin()] = 1.0
    return weights
