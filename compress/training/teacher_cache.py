"""Cache of teacher signals on disk, so that a large teacher runs once a batch.

Useful when order and augmentation repeat (``realisations``): a batch is known by its place, and its place decides its
samples and their augmentation. Kept in half precision; what is read is always what was kept, also in the epoch
that kept it, so a resumed run sees the same numbers. Each batch has a checksum: of what a disk has damaged, the teacher
is asked again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
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

CHECKSUMS = "checksums"
"""Array of a number a batch: 0 where it was not seen, else one more than the CRC-32 of its signals."""

DAMAGE = (ValueError, TypeError, IndexError, OverflowError, EOFError, SyntaxError, TokenError, OSError)
"""What numpy raises at a damaged header, and at a file that was cut."""


@final
class TeacherCache:
    """One array a signal under ``folder``, a row a batch, filled as batches come.

    Args:
        say: told, once, that what is on disk is damaged.
    """

    def __init__(self, folder: Path, batches: Batches, schedule: Schedule, say: Callable[[str], None]) -> None:
        self._folder = folder / f"rank-{distributed.index()}-of-{distributed.count()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._positions, self._parts = batches.steps_an_epoch, schedule.accumulate
        self._rows = schedule.realisations * self._positions * self._parts
        self._say, self._damage_told = say, False
        self._arrays: dict[str, np.memmap[Any, Any]] = {}
        self._checksums = self._open(CHECKSUMS, (), np.dtype(np.uint64))

    def read(self, place: Place) -> Signals | None:
        """Read the signals of a batch; None when it has not been seen, or was damaged since."""
        row = self._row(place)
        if not self._checksums[row]:
            return None
        arrays = self._rows_of(row)
        if _checksum(arrays) != self._checksums[row]:
            self._tell_damage()
            return None
        signals: Signals = {}
        for key, array in arrays.items():
            name, _, number = key.partition(".")
            value = torch.from_numpy(array).float()
            if number:
                signals.setdefault(name, []).append(value)
            else:
                signals[name] = value
        return signals

    def keep(self, place: Place, signals: Signals) -> None:
        """Store the signals of a batch."""
        row = self._row(place)
        self._checksums[row] = 0
        for name, value in signals.items():
            parts = {name: value} if isinstance(value, Tensor) else {f"{name}.{i:04}": v for i, v in enumerate(value)}
            for key, tensor in parts.items():
                array = self._open(key, tuple(tensor.shape), np.dtype(np.float16))
                array[row] = tensor.detach().float().cpu().numpy()
        self._checksums[row] = _checksum(self._rows_of(row))

    def _row(self, place: Place) -> int:
        return (place.realisation * self._positions + place.position) * self._parts + place.part

    def _rows_of(self, row: int) -> dict[str, np.ndarray[Any, Any]]:
        """Read a row of each signal's array; of none where one of them is damaged in size or header."""
        names = sorted(path.stem for path in self._folder.glob("*.npy") if path.stem != CHECKSUMS)
        try:
            return {name: np.array(self._array(name)[row]) for name in names}
        except DAMAGE:
            return {}

    def _tell_damage(self) -> None:
        if not self._damage_told:
            self._say(f"what {self._folder} keeps of the teacher is damaged; it is asked again where that is so")
            self._damage_told = True

    def _array(self, name: str) -> np.memmap[Any, Any]:
        if name not in self._arrays:
            path = self._folder / f"{name}.npy"
            array = np.lib.format.open_memmap(str(path), mode="r")
            if path.stat().st_size != array.offset + array.nbytes:
                raise ValueError(f"{path} has another size than its header says")
            self._arrays[name] = np.lib.format.open_memmap(str(path), mode="r+")
        return self._arrays[name]

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
        """Open an array of a row a batch; one that is not there, or is of another kind than it must be, is made anew."""
        path = self._folder / f"{name}.npy"
        if path.exists() and not self._is_whole(name, (self._rows, *shape), dtype):
            self._tell_damage()
            self._arrays.pop(name, None)
            path.unlink()
        if not path.exists():
            self._make(path, (self._rows, *shape), dtype)
        return self._array(name)

    def _is_whole(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        try:
            array = self._array(name)
        except DAMAGE:
            return False
        return bool(array.shape == shape and array.dtype == dtype)

    def _make(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # Made aside and renamed: an array that a killed run left half made would read as data.
        part = path.with_suffix(".part")
        np.lib.format.open_memmap(str(part), mode="w+", dtype=dtype, shape=shape).flush()
        try:
            with part.open("r+b") as file:
                allocate(file, part.stat().st_size, part)  # a disk that fills up later would end the process by a signal
        except OSError:
            part.unlink()
            raise
        part.rename(path)


def _checksum(arrays: dict[str, np.ndarray[Any, Any]]) -> int:
    """Return one more than the CRC-32 of a batch's signals and their names; a checksum of 0 says that there are none."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), crc))
    return crc + 1


def size_bytes(signals: Signals, batches: Batches, schedule: Schedule) -> int:
    """Compute the size of all batches' signals from those of one batch."""
    tensors = [t for value in signals.values() for t in ([value] if isinstance(value, Tensor) else value)]
    rows = schedule.realisations * batches.steps_an_epoch * schedule.accumulate
    return rows * sum(2 * tensor.numel() for tensor in tensors)
