"""Pairs of an input and what a model is to make of it, image for image, cut to patches of one size."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Batch, Indices, Samples
from compress.data.box_samples import first_faults
from compress.data.decoding import UNREADABLE, reason, upright
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.transforms import Normalise
from deploy.files.npz import read_array
from deploy.processing.normalisation import normalise_shares
from deploy.processing.pictures import png
from deploy.processing.raws import Raw
from profiles.errors import UserError

WHITE = 255.0

Pixels = npt.NDArray[np.float32]
"""(height, width, channels); of images white is 1."""


@final
@dataclass(frozen=True, kw_only=True)
class PatchPreprocessing:
    """Size, normalisation and augmentation of a patch.

    Attributes:
        size: height and width of the input, in pixels.
        enlarge: how many pixels a side a pixel of the input becomes.
        mirror, turn: whether half of the augmented patches are mirrored, and three quarters turned by 90, 180 or 270 degrees
            (square patches alone).

    Raises:
        UserError: any of them is not possible; all of them.
    """

    normalise: Normalise
    size: tuple[int, int]
    enlarge: int = 1
    mirror: bool = True
    turn: bool = True

    def __post_init__(self) -> None:
        faults: list[str] = []
        if not all(side > 0 for side in self.size):
            faults.append(f"data: size is the input's height and width in pixels; given: {self.size}")
        if not 1 <= self.enlarge <= 16:
            faults.append(f"data: enlarge is a whole number from 1 (same size) to 16; given: {self.enlarge}")
        if self.turn and self.size[0] != self.size[1]:
            faults.append(f"data: only square patches can be turned; set turn = false; given: size {list(self.size)}")
        if faults:
            raise UserError(*faults)

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        return {"use": "patch", "size": list(self.size), "enlarge": self.enlarge, **self.normalise.as_json()}


class PairStore(ABC):
    """Pairs by number. Subclasses are final."""

    @abstractmethod
    def read(self, index: int, noise: np.random.Generator) -> tuple[Pixels, Pixels]:
        """Read input and target whole; ``noise`` is drawn from the generator alone.

        Raises:
            UserError: files that cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what errors call it."""

    @abstractmethod
    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each pair."""


@final
class PatchSamples(Samples):
    """Patches at the middle of their images, or anywhere and turned when augmented; ``indices`` are of the store.

    Inputs are float32 (samples, channels, height, width), targets float32 (samples, channels, ``enlarge`` times both); NaN
    in a target stands for no value.
    """

    def __init__(self, held: PairStore, indices: Indices, view: PatchPreprocessing) -> None:
        self._held, self._indices, self._view = held, indices, view
        self._content = ""

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the patches at ``indices``.

        Raises:
            UserError: files that cannot be read, or images smaller than a patch; the first few are named.
        """
        draws = None if augment is None else augment.random((len(indices), 4))
        seeds = indices if augment is None else augment.integers(0, 2**32, len(indices))

        def cut(row: int) -> tuple[Pixels, Pixels] | list[str]:
            try:
                number = int(self._indices[indices[row]])
                pair = self._held.read(number, np.random.default_rng(int(seeds[row])))
                return self._patch(number, *pair, None if draws is None else draws[row])
            except UserError as error:
                return list(error.faults)

        found = list(thread_pool().map(cut, range(len(indices))))
        faults = [fault for each in found if isinstance(each, list) for fault in each]
        if faults:
            raise UserError(*first_faults(faults))
        pairs = [each for each in found if isinstance(each, tuple)]
        inputs, targets = (np.moveaxis(np.stack(side), 3, 1) for side in zip(*pairs, strict=True))
        return Batch(normalise_shares(inputs, self._view.normalise), np.ascontiguousarray(targets))

    def raw(self, index: int) -> Raw:
        """Return the input patch of a sample as a PNG."""
        number = int(self._indices[index])
        given, _ = self._patch(number, *self._held.read(number, np.random.default_rng(int(index))), None)
        return Raw(value=png(np.round(np.float32(WHITE) * given).astype(np.uint8)))

    def _patch(
        self, number: int, given: Pixels, wanted: Pixels, draw: npt.NDArray[np.float64] | None
    ) -> tuple[Pixels, Pixels]:
        (high, wide), times = self._view.size, self._view.enlarge
        if wanted.shape[0] != times * given.shape[0] or wanted.shape[1] != times * given.shape[1]:
            sizes = f"{given.shape[1]}x{given.shape[0]} and {wanted.shape[1]}x{wanted.shape[0]}"
            words = f"its target has {times} times its sides (enlarge = {times})"
            raise UserError(f"data: {self._held.name(number)}: input and target are of {sizes}; {words}")
        spare = given.shape[0] - high, given.shape[1] - wide
        if min(spare) < 0:
            words = f"of {given.shape[1]}x{given.shape[0]} pixels, less than a patch of {wide}x{high}"
            raise UserError(f"data: {self._held.name(number)} is {words}; lower size, or remove it")
        shares = (0.5, 0.5) if draw is None else (draw[0], draw[1])
        top, left = (min(int(share * (room + 1)), room) for share, room in zip(shares, spare, strict=True))
        given = given[top : top + high, left : left + wide]
        wanted = wanted[times * top : times * (top + high), times * left : times * (left + wide)]
        if draw is not None and self._view.mirror and draw[2] < 0.5:
            given, wanted = given[:, ::-1], wanted[:, ::-1]
        if draw is not None and self._view.turn:
            given, wanted = np.rot90(given, int(4 * draw[3])), np.rot90(wanted, int(4 * draw[3]))
        return given, wanted

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr(self._view).encode())
            digest.update("".join(self._held.digests(self._indices)).encode())
            self._content = digest.hexdigest()
        return self._content


@final
class FilePairs(PairStore):
    """Inputs and targets that are files.

    Args:
        pairs: names of input and target under ``root``.
        channels: of the input, 3 or 1.
        step: what a step of a stored number of a target is worth, of 8 or 16 bits or in a .npy file; 0 where targets are
            images, white being 1.
        invalid: stored numbers that stand for no value.
    """

    def __init__(
        self, root: Path, pairs: Sequence[tuple[str, str]], channels: int, step: float, invalid: Sequence[float]
    ) -> None:
        self._root, self._pairs, self._channels = root, pairs, channels
        self._step, self._invalid = step, tuple(invalid)

    def read(self, index: int, noise: np.random.Generator) -> tuple[Pixels, Pixels]:
        given, wanted = (self._root / name for name in self._pairs[index])
        target = read_numbers(wanted) if self._step else read_image(wanted, self._channels)
        if self._step:
            target = np.where(np.isin(target, self._invalid), np.nan, target * np.float32(self._step)).astype(np.float32)
        return read_image(given, self._channels), target

    def name(self, index: int) -> str:
        return str(self._root / self._pairs[index][0])

    def digests(self, indices: Indices) -> list[str]:
        names = [name for index in indices for name in self._pairs[index]]
        known = file_digests(self._root, dict.fromkeys(names))
        return [known[name] + repr((self._channels, self._step, self._invalid)) for name in names]


@final
class DegradedImages(PairStore):
    """Images that are the targets; their inputs are made smaller, and noise is added.

    Args:
        shrink: how many times smaller a side of the input is; bicubic, antialiased.
        noise: standard deviation of what is added to each value of the input, in steps of 255.
    """

    def __init__(self, root: Path, names: Sequence[str], channels: int, shrink: int, noise: float) -> None:
        self._root, self._names, self._channels = root, names, channels
        self._shrink, self._noise = shrink, noise

    def read(self, index: int, noise: np.random.Generator) -> tuple[Pixels, Pixels]:
        path, times = self._root / self._names[index], self._shrink
        wanted = read_image(path, self._channels)
        rows, columns = wanted.shape[0] // times, wanted.shape[1] // times
        if not rows or not columns:
            raise UserError(f"data: {path} is smaller than {times} pixels a side; remove it")
        wanted = wanted[: rows * times, : columns * times]
        given = wanted
        if times > 1:
            image = Image.fromarray(np.round(WHITE * wanted).astype(np.uint8).squeeze(2 if self._channels == 1 else ()))
            small = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
            given = small.reshape(rows, columns, self._channels) / np.float32(WHITE)
        if self._noise:
            added = noise.standard_normal(given.shape, np.float32) * np.float32(self._noise)
            given = np.round((given * np.float32(WHITE) + added).clip(0, WHITE)) / np.float32(WHITE)
        return given, wanted

    def name(self, index: int) -> str:
        return str(self._root / self._names[index])

    def digests(self, indices: Indices) -> list[str]:
        names = [self._names[index] for index in indices]
        known = file_digests(self._root, names)
        return [known[name] + repr((self._channels, self._shrink, self._noise)) for name in names]


def read_image(path: Path, channels: int) -> Pixels:
    """Read an image as float32 (height, width, channels), white being 1.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(upright(picture, channels), np.float32)
    except UNREADABLE as error:
        raise UserError(f"data: {path} cannot be decoded ({reason(error, path)}); remove or replace it") from None
    scaled: Pixels = pixels.reshape(*pixels.shape[:2], channels) / np.float32(WHITE)
    return scaled


def read_numbers(path: Path) -> Pixels:
    """Read the numbers stored in a .npy file or a grey image of 8, 16 or 32 bits, float32 (height, width, channels).

    Raises:
        UserError: it cannot be read, or has colours.
    """
    try:
        if path.suffix.lower() == ".npy":
            numbers = read_array(path)
        else:
            with Image.open(path) as picture:
                numbers = np.asarray(picture)
                if picture.mode not in ("L", "P", "F", "1") and not picture.mode.startswith("I"):
                    raise ValueError(f"it is a picture of mode {picture.mode}, and numbers are grey")
    except UNREADABLE as error:
        raise UserError(f"data: {path} cannot be read ({reason(error, path)}); remove or replace it") from None
    if numbers.ndim not in (2, 3) or numbers.dtype.kind not in "iufb":
        raise UserError(f"data: {path} holds {numbers.dtype} of shape {numbers.shape}; numbers (height, width) are read")
    read: Pixels = numbers.reshape(*numbers.shape[:2], -1).astype(np.float32)
    return read
