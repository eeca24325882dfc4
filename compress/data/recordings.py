"""Sound files: heads, samples, and another rate.

WAV of whole numbers is read by Python itself; everything else (WAV of floats, FLAC, Ogg, MP3) by soundfile, where it is
installed. Full scale is 1.
"""

from __future__ import annotations

import importlib.util
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.fingerprints import thread_pool
from profiles.errors import one_line

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
BROKEN = (OSError, EOFError, ValueError, RuntimeError, wave.Error)
INSTALL = "pip install 'edge-compress[audio]'"

LOBES, ROLL_OFF = 6, 0.99
"""Zero crossings of the resampling filter on each side, and where it ends, as a share of half of the lower rate."""

MOST_KERNEL = 2**24
"""Numbers in a resampling filter; 44.1 to 16 kHz has 76 thousand, two rates without a common divisor have more."""

MOST_RATE, MOST_CHANNELS = 2**20, 1024

Sound = npt.NDArray[np.float32]


@final
@dataclass(frozen=True, kw_only=True)
class Head:
    """Head of a sound file: samples a second, channels, and samples of each channel."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.rate


def is_sound(name: str) -> bool:
    """Return whether a file has the name of a sound file, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_heads(paths: Sequence[Path]) -> list[Head | str]:
    """Read the heads of sound files in threads; a fault where one cannot be read."""
    return list(thread_pool().map(read_head, paths))


def read_head(path: Path) -> Head | str:
    """Read the head of a sound file; a fault where it cannot be read."""
    try:
        if _by_itself(path):
            with wave.open(str(path), "rb") as file:
                return _head(file.getframerate(), file.getnchannels(), file.getnframes())
        about = _soundfile(path).info(str(path))
        return _head(int(about.samplerate), int(about.channels), int(about.frames))
    except BROKEN as error:
        return unreadable(path, error)


def _head(rate: int, channels: int, frames: int) -> Head:
    if not 0 < rate <= MOST_RATE or not 0 < channels <= MOST_CHANNELS or frames < 0:
        raise ValueError(f"its head says {rate} Hz, {channels} channels and {frames} samples")
    return Head(rate=rate, channels=channels, frames=frames)


def read_sound(path: Path) -> Sound:
    """Read a sound file, (samples, channels), full scale 1.

    Raises:
        BROKEN: it cannot be read; ``unreadable`` words it.
    """
    if not _by_itself(path):
        samples: Sound = _soundfile(path).read(str(path), dtype="float32", always_2d=True)[0]
        return samples
    with wave.open(str(path), "rb") as file:
        width, channels, frames = file.getsampwidth(), file.getnchannels(), file.getnframes()
        data = file.readframes(frames)
    if len(data) < frames * width * channels:
        raise ValueError(f"it breaks off after {len(data) // (width * channels)} of {frames} samples")
    return _numbers(data, width).reshape(-1, channels)


def unreadable(path: Path, error: BaseException) -> str:
    """Word why a sound file cannot be read, in one line."""
    if path.is_file() and path.stat().st_size == 0:
        return f"data: {path} cannot be read (it is empty); remove or replace it"
    words = one_line(str(error), 160) or type(error).__name__
    more = "" if _has_soundfile() else f"; soundfile reads more kinds: {INSTALL}"
    return f"data: {path} cannot be read ({words}){more or '; remove or replace it'}"


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


def _by_itself(path: Path) -> bool:
    """Return whether Python reads a file itself: WAV, unless soundfile is there, which knows floats too."""
    return path.suffix.lower() == ".wav" and not _has_soundfile()


def _has_soundfile() -> bool:
    return importlib.util.find_spec("soundfile") is not None


def _soundfile(path: Path) -> Any:
    try:
        import soundfile
    except ImportError:
        raise ValueError(f"{path.suffix} files need soundfile") from None
    return soundfile
