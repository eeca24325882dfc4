"""Cache of teacher signals on disk, so that a large teacher runs once a batch.

Useful when order and augmentation repeat (``realisations``): a batch is known by its place, and its place decides its
samples and their augmentation. Kept in half precision; what is read is always what was kept, also in the epoch
that kept it, so a resumed run sees the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from compress.execution import distributed
from compress.training.loader import Batches, Place
from compress.training.schedule import Schedule
from deploy.files import allocate

Signals = dict[str, Any]
"""Tensors, or lists of tensors (feature maps), by the names that losses read."""


@final
class TeacherCache:
    """One array a signal under ``folder``, a row a batch, filled as batches come."""

    def __init__(self, folder: Path, batches: Batches, schedule: Schedule) -> None:
        self._folder = folder / f"process-{distributed.index()}-of-{distributed.count()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._positions, self._parts = batches.steps_an_epoch, schedule.accumulate
        self._rows = schedule.realisations * self._positions * self._parts
        self._arrays: dict[str, np.memmap[Any, Any]] = {}
        self._filled = self._open("filled", (), np.dtype(bool))

    def read(self, place: Place) -> Signals | None:
        """Read the signals of a batch; None when it has not been seen."""
        row = self._row(place)
        if not self._filled[row]:
            return None
        signals: Signals = {}
        for path in sorted(self._folder.glob("*.npy")):
            name, _, number = path.stem.partition(".")
            if name == "filled":
                continue
            value = torch.from_numpy(np.array(self._array(path.stem)[row])).float()
            if number:
                signals.setdefault(name, []).append(value)
            else:
                signals[name] = value
        return signals

    def keep(self, place: Place, signals: Signals) -> None:
        """Store the signals of a batch."""
        row = self._row(place)
        for name, value in signals.items():
            parts = {name: value} if isinstance(value, Tensor) else {f"{name}.{i:02}": v for i, v in enumerate(value)}
            for key, tensor in parts.items():
                array = self._open(key, tuple(tensor.shape), np.dtype(np.float16))
                array[row] = tensor.detach().float().cpu().numpy()
        self._filled[row] = True

    def _row(self, place: Place) -> int:
        return (place.realisation * self._positions + place.position) * self._parts + place.part

    def _array(self, name: str) -> np.memmap[Any, Any]:
        if name not in self._arrays:
            self._arrays[name] = np.lib.format.open_memmap(str(self._folder / f"{name}.npy"), mode="r+")
        return self._arrays[name]

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            # Made aside and renamed: an array that a killed run left half made would read as data.
            part = path.with_suffix(".part")
            np.lib.format.open_memmap(str(part), mode="w+", dtype=dtype, shape=(self._rows, *shape)).flush()
            try:
                with part.open("r+b") as file:
                    allocate(file, part.stat().st_size, part)  # a disk that fills up later would end the process by a signal
            except OSError:
                part.unlink()
                raise
            part.rename(path)
        return self._array(name)


def size_bytes(signals: Signals, batches: Batches, schedule: Schedule) -> int:
    """Compute the size of all batches' signals from those of one batch."""
    tensors = [t for value in signals.values() for t in ([value] if isinstance(value, Tensor) else value)]
    rows = schedule.realisations * batches.steps_an_epoch * schedule.accumulate
    return rows * sum(2 * tensor.numel() for tensor in tensors)
