"""Recordings to samples at a model's rate and length. numpy and the standard library."""

from __future__ import annotations

import math
import wave
from functools import cache
from typing import IO

import numpy as np
import numpy.typing as npt

LOBES, ROLL_OFF = 6, 0.99
"""Zero crossings of the resampling filter on each side, and where it ends, as a share of half of the lower rate."""

MOST_KERNEL = 2**24
"""Numbers in a resampling filter; 44.1 to 16 kHz has 76 thousand, two rates without a common divisor have more."""

MOST_RATE, MOST_CHANNELS = 2**20, 1024

Sound = npt.NDArray[np.float32]


def read_wav(file: str | IO[bytes]) -> tuple[Sound, int]:
    """Read a WAV of whole numbers: (samples, channels), full scale 1, and samples a second.

    Raises:
        ValueError, EOFError, wave.Error: it is none, or breaks off.
    """
    with wave.open(file, "rb") as opened:
        width, channels, frames = opened.getsampwidth(), opened.getnchannels(), opened.getnframes()
        rate = opened.getframerate()
        if width not in (1, 2, 3, 4):
            raise ValueError(f"its samples are of {8 * width} bits")
        data = opened.readframes(frames)
    if len(data) < frames * width * channels:
        raise ValueError(f"it breaks off after {len(data) // (width * channels)} of {frames} samples")
    return _numbers(data, width).reshape(-1, channels), rate


def place_at(sound: Sound, result: Sound, first: int) -> None:
    """Write a recording (samples,) into ``result``, which is silent, from sample ``first`` on; the rest is left out."""
    begin, end = max(0, first), min(len(result), first + len(sound))
    if begin < end:
        result[begin:end] = sound[begin - first : end - first]


def to_length(sound: Sound, samples: int) -> Sound:
    """Return so many samples: silence around a shorter recording, the middle of a longer one."""
    result = np.zeros(samples, np.float32)
    place_at(sound, result, (samples - len(sound)) // 2)
    return result


def resampled(sound: Sound, given: int, wanted: int) -> Sound:
    """Bring a recording (samples,) from one rate to another: a sinc under a squared cosine, cut at the lower rate's half.

    Raises:
        ValueError: the filter would be too large, of two rates with a small common divisor.
    """
    if given == wanted:
        return sound
    kernel, step, new, before = _filter(given, wanted)
    length = math.ceil(len(sound) * wanted / given)
    padded = np.pad(sound, (before, before + step))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1])[::step]
    result: Sound = (windows @ kernel.T).reshape(-1)[:length]
    assert new == kernel.shape[0]
    return np.ascontiguousarray(result)


@cache
def _filter(given: int, wanted: int) -> tuple[npt.NDArray[np.float32], int, int, int]:
    """Return a filter (new, taps) for each new sample of a period, its old and new samples, and the taps before."""
    shared = math.gcd(given, wanted)
    old, new = given // shared, wanted // shared
    top = min(old, new) * ROLL_OFF
    before = math.ceil(LOBES * old / top)
    if new * (2 * before + old) > MOST_KERNEL:
        raise ValueError(f"{given} and {wanted} Hz have no common divisor to speak of; resample the files")
    taps = np.arange(-before, before + old) / old
    at = ((taps[None] - np.arange(new)[:, None] / new) * top).clip(-LOBES, LOBES)
    kernel = np.sinc(at) * np.cos(at * math.pi / LOBES / 2) ** 2 * top / old
    return kernel.astype(np.float32), old, new, before


def _numbers(data: bytes, width: int) -> Sound:
    """Convert samples of so many bytes, least first, to floats; those of one byte are unsigned."""
    if width == 1:
        return ((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128).astype(np.float32)
    if width == 3:
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3)
        padded = np.zeros((len(bytes_), 4), np.uint8)
        padded[:, 1:] = bytes_
        return (padded.reshape(-1).view("<i4") / 2.0**31).astype(np.float32)
    return (np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)
