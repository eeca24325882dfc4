"""Recordings of one length and rate, decoded when they are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.audio_transforms import AudioPreprocessing, augment_sounds, place
from compress.data.base import Batch, Indices, Samples
from compress.data.box_samples import first_faults
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.recordings import BROKEN, Sound, read_head, read_sound, resampled, unreadable
from deploy.processing.raws import Raw
from profiles.errors import UserError


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Recordings:
    """Sound files under one folder with a target each.

    Attributes:
        names: under ``root``.
        rates: samples a second of each.
        targets: (recordings,) classes, or (recordings, classes) of 0 and 1 for tags.
        noises: files of noise under ``noise_root``; white noise without.
    """

    root: Path
    names: Sequence[str]
    rates: Sequence[int]
    targets: npt.NDArray[Any]
    noises: Sequence[Path] = field(default_factory=tuple)


@final
class AudioSamples(Samples):
    """Recordings as float32 (1, samples), or spectra (1, mels, frames); ``indices`` are of the files."""

    def __init__(self, held: Recordings, indices: Indices, view: AudioPreprocessing, classes: tuple[str, ...]) -> None:
        self.classes, self.targets = classes, held.targets[indices]
        self._held, self._indices, self._view = held, indices, view
        self._content = ""

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the recordings at ``indices``.

        Raises:
            UserError: files that cannot be read; the first few are named.
        """
        view = self._view
        draws = None if augment is None else augment.random(len(indices))
        sounds = np.zeros((len(indices), view.samples), np.float32)
        faults: list[str] = []

        def decode(row: int) -> None:
            number = int(self._indices[indices[row]])
            path = self._held.root / self._held.names[number]
            try:
                mono = read_sound(path).mean(axis=1, dtype=np.float32)
                sound = resampled(mono, self._held.rates[number], view.rate)
                place(sound, sounds[row], view, None if draws is None else float(draws[row]))
            except BROKEN as error:
                faults.append(unreadable(path, error))

        list(thread_pool().map(decode, range(len(indices))))
        if faults:
            raise UserError(*first_faults(sorted(faults)))
        if augment is not None:
            sounds = augment_sounds(sounds, self._noises(len(indices), augment), view, augment)
        inputs = sounds[:, None] if view.log_mel is None else view.log_mel(sounds)[:, None]
        return Batch(inputs, self.targets[indices])

    def _noises(self, count: int, augment: np.random.Generator) -> Sound:
        """Draw noise for each recording, (count, samples)."""
        view = self._view
        if not self._held.noises or not view.noise_db:
            return augment.standard_normal((count, view.samples), np.float32)
        chosen, starts = augment.integers(0, len(self._held.noises), count), augment.random(count)
        noises = np.zeros((count, view.samples), np.float32)
        for row, (number, start) in enumerate(zip(chosen, starts, strict=True)):
            sound = _noise(self._held.noises[int(number)], view.rate)
            first = int(start * max(1, len(sound) - view.samples))
            part = sound[first : first + view.samples]
            noises[row, : len(part)] = part
        return noises

    def raw(self, index: int) -> Raw:
        return Raw(value=(self._held.root / self._held.names[int(self._indices[index])]).read_bytes())

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr((self._view, self.classes)).encode())
            digest.update(np.ascontiguousarray(self.targets).data)
            names = [self._held.names[index] for index in self._indices]
            known = file_digests(self._held.root, names)
            digest.update("".join(known[name] for name in names).encode())
            for path in self._held.noises:
                digest.update(file_digests(path.parent, [path.name])[path.name].encode())
            self._content = digest.hexdigest()
        return self._content


@cache
def _noise(path: Path, rate: int) -> Sound:
    """Read a recording of noise, and keep it: there are few.

    Raises:
        UserError: it cannot be read.
    """
    try:
        head = read_head(path)
        if isinstance(head, str):
            raise UserError(head)
        return resampled(read_sound(path).mean(axis=1, dtype=np.float32), head.rate, rate)
    except BROKEN as error:
        raise UserError(unreadable(path, error)) from None
