"""A streaming model: spoken digits by a GRU that hears four frames of a spectrum at a time and keeps a state.

A recipe names both callables (streaming.toml does), and says which output is fed back:

    [task]
    data = "streaming.py:frames"
    [teacher]
    model = "streaming.py:spotter"
    [state]
    h = "hn"
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from compress.data import Splits
from compress.data.audio import audio
from compress.data.base import Batch, Indices, Samples

RATE, MELS, FRAMES = 8000, 24, 4
"""Samples a second, bands of the spectrum, and frames that make a step: 64 ms of sound."""


@final
class Steps(Samples):
    """Spectra (samples, 1, mels, frames) as sequences (samples, steps, mels * ``FRAMES``)."""

    def __init__(self, spectra: Samples) -> None:
        self._spectra, self.classes = spectra, spectra.classes

    def __len__(self) -> int:
        return len(self._spectra)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        batch = self._spectra.load(indices, augment)
        frames = batch.inputs[:, 0].transpose(0, 2, 1)
        steps = frames.shape[1] // FRAMES
        return Batch(np.ascontiguousarray(frames[:, : steps * FRAMES].reshape(len(batch), steps, -1)), batch.targets)

    def fingerprint(self) -> str:
        return f"{self._spectra.fingerprint()} {FRAMES}"


def frames(path: Path, seconds: float = 0.7, shift_s: float = 0.05) -> Splits:
    """Read recordings named ``{label}_{speaker}_{take}`` as sequences of frames; speaker s6 tests, s5 validates."""
    found = audio(
        path=path,
        rate=RATE,
        seconds=seconds,
        names="{label}_{speaker}_{take}",
        held_out={"test": {"speaker": ["s6"]}, "validation": {"speaker": ["s5"]}},
        log_mel={"mels": MELS},
        shift_s=shift_s,
    )
    changed: dict[str, Any] = {n: Steps(getattr(found, n)) for n in ("train", "calibration", "validation", "test")}
    return replace(found, **changed)


@final
class Spotter(nn.Module):
    """Logits of the digit heard so far, and the state for the next step, whose first axis is the samples'."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(MELS * FRAMES, hidden), nn.ReLU())
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.after = nn.Linear(hidden, 10)

    def forward(self, frames: Tensor, h: Tensor | None = None) -> dict[str, Tensor]:
        """Take one step: ``frames`` (samples, mels * FRAMES), ``h`` (samples, 1, hidden)."""
        before = None if h is None else h.transpose(0, 1).contiguous()
        hidden, after = self.gru(self.before(frames)[:, None], before)
        return {"logits": self.after(hidden[:, 0]), "hn": after.transpose(0, 1)}


def spotter(width: float = 1.0) -> nn.Module:
    """Make the model: ``width`` 1 has a state of 128 numbers."""
    return Spotter(max(8, round(128 * width)))
