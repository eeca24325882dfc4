"""Sound files: heads, samples, and another rate.

WAV of whole numbers is read by Python itself; everything else (WAV of floats, FLAC, Ogg, MP3) by soundfile, where it is
installed. Full scale is 1.
"""

from __future__ import annotations

import importlib.util
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.data.fingerprints import thread_pool
from deploy.processing.sound import MOST_CHANNELS, MOST_RATE, read_wav
from deploy.processing.sound import Sound as Sound
from deploy.processing.sound import resampled as resampled
from profiles.errors import one_line

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
BROKEN = (OSError, EOFError, ValueError, RuntimeError, wave.Error)
INSTALL = "pip install 'edge-compress[audio]'"


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
    return read_wav(str(path))[0]


def unreadable(path: Path, error: BaseException) -> str:
    """Word why a sound file cannot be read, in one line."""
    if path.is_file() and path.stat().st_size == 0:
        return f"data: {path} cannot be read (it is empty); remove or replace it"
    words = one_line(str(error), 160) or type(error).__name__
    more = "" if _has_soundfile() else f"; soundfile reads more kinds: {INSTALL}"
    return f"data: {path} cannot be read ({words}){more or '; remove or replace it'}"


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
