"""Recordings at a model's rate and length (the source audio)."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.log_mel import LogMel
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, unlike
from deploy.processing.sound import MOST_CHANNELS, MOST_RATE, Sound, read_wav, resampled, to_length
from profiles.errors import UserError, kind_with_article, one_line

MOST_SAMPLES, MOST_MELS, MOST_FILE_BYTES = 2**24, 4096, 2**29
MOST_FRAMED = 2**27
"""Samples in all frames together."""
TAKES = "a recording: the path or bytes of a WAV, an array (samples[, channels]) at the model's rate, or (array, rate)"


@final
@dataclass(frozen=True, kw_only=True)
class Recording(Preprocessing):
    """A recording: the mean of its channels at ``rate``, ``samples`` long, or its spectrum.

    Silence is around a shorter one; of a longer one the middle is taken.
    """

    takes = TAKES
    rate: int
    samples: int
    log_mel: LogMel | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Recording:
        rate, seconds = int(data["rate"]), float(data["seconds"])
        samples = round(rate * seconds) if 0 < seconds <= 3600 else 0
        if not 0 < rate <= MOST_RATE or not 0 < samples <= MOST_SAMPLES:
            raise ValueError(f"{rate} Hz for {seconds:g} s: 1 to {MOST_SAMPLES} samples are taken")
        log_mel = LogMel(**data["log_mel"]) if data.get("log_mel") else None
        if log_mel is not None and (log_mel.window > samples or log_mel.mels > MOST_MELS):
            raise ValueError(f"spectra of {log_mel.mels} mels and {log_mel.window_ms:g} ms")
        if log_mel is not None and log_mel.frames(samples) * log_mel.window > MOST_FRAMED:
            raise ValueError(f"{log_mel.frames(samples)} frames of {log_mel.window} samples")
        return cls(rate=rate, samples=samples, log_mel=log_mel)

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        sound, rate = _read(raw, self.rate)
        mono = sound if sound.ndim == 1 else sound.mean(axis=1, dtype=np.float32)
        try:
            made = to_length(resampled(mono, rate, self.rate), self.samples)[None]
        except ValueError as error:
            raise UserError(f"a recording at {rate} Hz cannot be brought to {self.rate} Hz: {error}") from None
        return Prepared(inputs=made[:, None] if self.log_mel is None else self.log_mel(made)[:, None])

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        log_mel = self.log_mel
        return unlike(inputs, (1, self.samples) if log_mel is None else (1, log_mel.mels, log_mel.frames(self.samples)))


def _read(raw: Any, rate: int) -> tuple[Sound, int]:
    """Return samples (samples[, channels]), float32 with a full scale of 1, and their rate.

    Raises:
        UserError: it is no recording, of another rate than there are, or too long.
    """
    if isinstance(raw, tuple) and len(raw) == 2 and isinstance(raw[0], np.ndarray):
        raw, given = raw
        if not isinstance(given, int | np.integer) or not 0 < given <= MOST_RATE:
            raise UserError(f"a recording's rate is samples a second, up to {MOST_RATE}; given: {one_line(str(given), 40)}")
        rate = int(given)
    if isinstance(raw, np.ndarray):
        if raw.dtype.kind not in "fi" or raw.ndim not in (1, 2) or not 0 < raw.size <= MOST_FILE_BYTES:
            raise UserError(f"an array of {raw.dtype} {raw.shape} is no recording; give (samples,) or (samples, channels)")
        if raw.ndim == 2 and raw.shape[1] > min(MOST_CHANNELS, raw.shape[0]):
            raise UserError(
                f"an array of {raw.shape} has more channels than samples; give (samples, channels): transpose it"
            )
        if raw.dtype.itemsize > 4 and raw.dtype.kind == "i":
            raise UserError(f"an array of {raw.dtype}: how loud its full scale is is not known; give int16, int32 or floats")
        whole = 2.0 ** (8 * raw.dtype.itemsize - 1) if raw.dtype.kind == "i" else 1.0
        return (raw / whole).astype(np.float32), rate
    name = one_line(str(raw), 200) if isinstance(raw, str | os.PathLike) else "the recording"
    if not isinstance(raw, bytes | bytearray | str | os.PathLike):
        raise UserError(f"{kind_with_article(raw)} is no recording; give {TAKES}")
    try:
        content = bytes(raw) if isinstance(raw, bytes | bytearray) else _content(Path(raw))
        sound, found = _decoded(content)
    except (OSError, EOFError, ValueError, RuntimeError, wave.Error) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 120) or type(error).__name__
        raise UserError(f"{name}: the recording cannot be read ({reason}); give a WAV") from None
    if not 0 < found <= MOST_RATE or not len(sound):
        raise UserError(f"{name}: its head says {found} Hz and {len(sound)} samples; give a recording with sound in it")
    return sound, found


def _content(path: Path) -> bytes:
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"longer than {MOST_FILE_BYTES} bytes")
    return path.read_bytes()


def _decoded(content: bytes) -> tuple[Sound, int]:
    """Decode a WAV by the standard library; other kinds by soundfile where that is installed."""
    try:
        return read_wav(io.BytesIO(content))
    except (wave.Error, EOFError) as error:
        try:
            import soundfile
        except ImportError:
            raise ValueError(f"{error}; kinds other than WAV of whole numbers need the package soundfile") from None
        sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        return sound, int(rate)
