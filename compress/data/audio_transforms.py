"""Length, rate and augmentation of recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.recordings import Sound
from deploy.processing.log_mel import LogMel, to_hz, to_mel
from deploy.processing.sound import place_at
from profiles.errors import UserError

QUIETEST = 1e-4
"""Level that noise is measured against in a recording that is quieter, 80 dB below full scale."""


NOISE_RANGE_DB = 30.0


@final
@dataclass(frozen=True, kw_only=True)
class AudioPreprocessing:
    """Length, rate and augmentation of a recording.

    Attributes:
        rate: samples a second.
        seconds: length; a shorter recording has silence around it, of a longer one the middle is taken.
        log_mel: spectra in place of recordings, for models without a front end; None for recordings.
        shift_s: an augmented recording begins up to so many seconds earlier or later; of a longer one any part is taken.
        noise_db: noise is added to augmented recordings, from so many decibels below their level to 30 more; 0 for none.
        gain_db: and they are louder or quieter by up to so many decibels.
        time_mask_s: a span of up to so many seconds is silenced.
        frequency_mask: a band of up to this share of the mel scale is taken out; with it SpecAugment (Park et al. 2019),
            done to the sound, so that teacher and student hear the same, wherever the spectrum is computed.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    rate: int = 16000
    seconds: float = 1.0
    log_mel: LogMel | None = None
    shift_s: float = 0.1
    noise_db: float = 20.0
    gain_db: float = 6.0
    time_mask_s: float = 0.1
    frequency_mask: float = 0.15

    def __post_init__(self) -> None:
        faults: list[str] = []
        if not 0 < self.rate <= 2**20:
            faults.append(f"data: rate is samples a second, such as 16000; given: {self.rate}")
        if not 0 < self.seconds <= 3600 or self.samples < 1:
            faults.append(f"data: seconds is how long a recording is, one sample or more; given: {self.seconds}")
        for name in ("shift_s", "noise_db", "gain_db", "time_mask_s"):
            if getattr(self, name) < 0:
                faults.append(f"data: {name} is 0 (none) or more; given: {getattr(self, name)}")
        if not 0 <= self.frequency_mask < 1:
            faults.append(f"data: frequency_mask is a share from 0 (none) to below 1; given: {self.frequency_mask}")
        if self.log_mel is not None and self.log_mel.frames(self.samples) < 1:
            faults.append(f"data: a recording of {self.seconds} s has not one frame of {self.log_mel.window_ms:g} ms")
        if faults:
            raise UserError(*faults)

    @property
    def samples(self) -> int:
        """How many samples a recording has."""
        return round(self.rate * self.seconds)

    def plain(self) -> AudioPreprocessing:
        """Return the same without augmentation."""
        return replace(self, shift_s=0.0, noise_db=0.0, gain_db=0.0, time_mask_s=0.0, frequency_mask=0.0)

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        about: dict[str, Any] = {
            "use": "recording",
            "rate": self.rate,
            "seconds": self.seconds,
            "channels": "their mean",
            "full_scale": 1.0,
        }
        about |= {"shorter": "silence around it", "longer": "its middle"}
        if self.log_mel is not None:
            about["log_mel"] = vars(self.log_mel)
        return about


def place(sound: Sound, result: Sound, view: AudioPreprocessing, draw: float | None = None) -> None:
    """Write a recording (samples,) into ``result`` (``view.samples``,), which is silent.

    Args:
        draw: from 0 to 1: how much earlier or later it begins, or which part of a longer one is taken; None for the middle.
    """
    spare = len(result) - len(sound)
    if draw is None:
        place_at(sound, result, spare // 2)
    else:
        moved = spare // 2 + round((2 * draw - 1) * view.shift_s * view.rate)
        place_at(sound, result, -round(draw * -spare) if spare < 0 else moved)


def augment_sounds(sounds: Sound, noises: Sound, view: AudioPreprocessing, augment: np.random.Generator) -> Sound:
    """Add noise to recordings (N, samples), and vary how loud they are; silence a span of each, and take a band out.

    Args:
        noises: of the same shape, of any level.
    """
    count, length = sounds.shape
    draws = augment.random((count, 6))
    if view.noise_db:
        below_db = view.noise_db + NOISE_RANGE_DB * draws[:, 0]
        level = np.maximum(_level(sounds), QUIETEST) * 10 ** (-below_db / 20)
        sounds = sounds + noises * (level / np.maximum(_level(noises), QUIETEST)).astype(np.float32)[:, None]
    sounds = sounds * (10 ** ((2 * draws[:, 1] - 1) * view.gain_db / 20)).astype(np.float32)[:, None]
    if view.frequency_mask:
        sounds = _without_band(sounds, view, draws[:, 2], draws[:, 3])
    if view.time_mask_s:
        wide = draws[:, 4] * min(view.time_mask_s * view.rate, length)
        first = draws[:, 5] * (length - wide)
        at = np.arange(length)
        sounds[(at >= first[:, None]) & (at < (first + wide)[:, None])] = 0
    return sounds


def _level(sounds: Sound) -> npt.NDArray[np.float64]:
    """Compute the root mean square of each recording."""
    level: npt.NDArray[np.float64] = np.sqrt(np.square(sounds, dtype=np.float64).mean(axis=1))
    return level


def _without_band(
    sounds: Sound, view: AudioPreprocessing, wide: npt.NDArray[np.float64], first: npt.NDArray[np.float64]
) -> Sound:
    """Take a band of mels out of each recording; ``wide`` and ``first`` from 0 to 1."""
    top = float(to_mel(view.rate / 2))
    mels = wide * view.frequency_mask * top
    low = first * (top - mels)
    spectrum = np.fft.rfft(sounds, axis=1)
    hz = np.fft.rfftfreq(sounds.shape[1], 1 / view.rate)
    spectrum[(hz >= to_hz(low)[:, None]) & (hz < to_hz(low + mels)[:, None])] = 0
    result: Sound = np.fft.irfft(spectrum, sounds.shape[1], axis=1).astype(np.float32)
    return result
