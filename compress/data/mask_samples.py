"""Images with a class label for each pixel, held at the input's size, and splits of them.

Labels are of the image as shown (``compress.data.decoding``); where a mask has the size of the pixels as stored, it is
turned with them. Image and labels share every augmentation: labels are moved to the nearest pixel, never mixed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Batch, Indices, Samples, Splits, assign_splits
from compress.data.box_samples import first_faults, room
from compress.data.box_transforms import BoxPreprocessing, fit_image, move_images, vary_colour
from compress.data.decoding import TURNS, UNREADABLE, Size, orientation_of, reason, upright
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.transforms import Bytes
from deploy.processing.raws import Raw
from profiles.errors import UserError

NONE = 255
"""A pixel without a label, in a mask of bytes; in targets it is -1."""

MOST_CLASSES = 254

Labels = npt.NDArray[np.uint8]
"""(height, width), or (samples, height, width): the class of each pixel, ``NONE`` where there is none."""


class MaskStore(ABC):
    """Masks by number. Subclasses are final."""

    @abstractmethod
    def read(self, index: int, sizes: Sequence[Size]) -> Labels:
        """Read the labels of an image, in a size of its own.

        Args:
            sizes: of the image as shown and as stored, of which the mask should have one.

        Raises:
            UserError: the mask cannot be read, or has values that are no class.
        """

    @abstractmethod
    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each mask."""


@final
class WithoutLabels(MaskStore):
    """The masks of a store, and behind them images that have none."""

    def __init__(self, masks: MaskStore, count: int) -> None:
        self._masks, self._count = masks, count

    def read(self, index: int, sizes: Sequence[Size]) -> Labels:
        if index < self._count:
            return self._masks.read(index, sizes)
        width, height = sizes[0]
        return np.full((height, width), NONE, np.uint8)

    def digests(self, indices: Indices) -> list[str]:
        known = iter(self._masks.digests(indices[indices < self._count]))
        return [next(known) if index < self._count else "no mask" for index in indices]


@final
class MaskCache:
    """Images and labels of one part at the input's size, decoded at first use and kept as bytes."""

    def __init__(self, root: Path, files: Sequence[str], masks: MaskStore, view: BoxPreprocessing) -> None:
        self.files, self._root, self._masks, self._view = files, root, masks, view
        self._pixels: Bytes | None = None
        self._labels: Bytes | None = None
        self._there = np.zeros(len(files), bool)

    def take(self, indices: Indices) -> tuple[Bytes, Labels]:
        """Return copies of the images (images, height, width, channels) and labels (images, height, width) at ``indices``.

        Raises:
            UserError: images or masks that cannot be read, or do not fit each other.
        """
        if self._pixels is None or self._labels is None:
            self._pixels = room((len(self.files), *self._view.size, self._view.normalise.channels))
            self._labels = room((len(self.files), *self._view.size))
        missing = [int(index) for index in np.unique(indices) if not self._there[index]]
        faults = [fault for found in thread_pool().map(self._decode, missing) for fault in found]
        if faults:
            raise UserError(*first_faults(faults))
        return self._pixels[indices], self._labels[indices]

    def content(self, index: int) -> bytes:
        """Return the file of an image."""
        return (self._root / self.files[index]).read_bytes()

    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each image and its mask."""
        names = [self.files[index] for index in indices]
        known = file_digests(self._root, names)
        return [known[name] + mask for name, mask in zip(names, self._masks.digests(indices), strict=True)]

    def _decode(self, index: int) -> Sequence[str]:
        assert self._pixels is not None and self._labels is not None
        path = self._root / self.files[index]
        try:
            with Image.open(path) as picture:
                stored, orientation = picture.size, orientation_of(picture)
                image = upright(picture, self._view.normalise.channels)
        except UNREADABLE as error:
            return [f"data: {path} cannot be decoded ({reason(error, path)}); remove or replace it"]
        try:
            labels = self._masks.read(index, (image.size, stored))
        except UserError as error:
            return error.faults
        if labels.shape[::-1] != image.size and labels.shape[::-1] == stored and orientation in TURNS:
            labels = np.asarray(Image.fromarray(labels).transpose(TURNS[orientation]))
        if labels.shape[::-1] != image.size:
            sizes = f"{image.width}x{image.height} pixels and its mask of {labels.shape[1]}x{labels.shape[0]}"
            return [f"data: {path} is of {sizes}; a mask has the size of its image"]
        self._pixels[index] = fit_image(image, self._view)
        self._labels[index] = fit_labels(labels, self._view)
        self._there[index] = True
        return ()


@final
class MaskSamples(Samples):
    """Images with labels of their pixels; ``indices`` refer to the cache. Targets are int64, -1 where there is no label."""

    def __init__(self, held: MaskCache, indices: Indices, view: BoxPreprocessing, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._held, self._indices, self._view = held, indices, view
        self._content = ""

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the images (samples, channels, height, width) at ``indices`` with their labels (samples, height, width)."""
        pixels, labels = self._held.take(self._indices[indices])
        if augment is not None:
            pixels, labels = augment_with_labels(pixels, labels, self._view, augment)
        targets = labels.astype(np.int64)
        targets[labels == NONE] = -1
        return Batch(self._view.normalise(np.moveaxis(pixels, 3, 1)), targets)

    def raw(self, index: int) -> Raw:
        return Raw(value=self._held.content(int(self._indices[index])))

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr((self._view, self.classes)).encode())
            digest.update("".join(self._held.digests(self._indices)).encode())
            self._content = digest.hexdigest()
        return self._content


def mask_splits(
    root: Path,
    files: Mapping[str, Sequence[str]],
    masks: Mapping[str, MaskStore],
    view: BoxPreprocessing,
    *,
    classes: tuple[str, ...],
    notes: Sequence[str],
    validation: float,
    test: float,
    calibration: int,
    seed: int,
    unlabelled: Sequence[str] = (),
) -> Splits:
    """Make splits of the images of each part under ``root`` and their masks; only training is augmented.

    Args:
        unlabelled: files of images without masks, which are added to train.

    Raises:
        UserError: sizes of splits that are not possible.
    """
    counts = {part: len(names) for part, names in files.items()}
    chosen = assign_splits(counts, validation=validation, test=test, calibration=calibration, seed=seed)
    if unlabelled:
        count = len(files["train"])
        files = {**files, "train": [*files["train"], *unlabelled]}
        masks = {**masks, "train": WithoutLabels(masks["train"], count)}
        added = count + np.arange(len(unlabelled))
        chosen = {**chosen, "train": ("train", np.concatenate([chosen["train"][1], added]))}
        notes = [*notes, f"{len(unlabelled)} images of train have no labels"]
    held = {part: MaskCache(root, names, masks[part], view) for part, names in files.items()}
    samples: dict[str, Any] = {
        name: MaskSamples(held[part], indices, view, classes) for name, (part, indices) in chosen.items()
    }
    return Splits(**samples, classes=classes, preprocessing=view.as_json(), notes=tuple(notes))


def fit_labels(labels: Labels, view: BoxPreprocessing) -> Labels:
    """Resize the labels of an image as ``fit_image`` does its pixels: to the nearest, ``NONE`` around."""
    height, width = labels.shape
    across, down, left, top = view.fit(width, height)
    wide, high = round(across * width), round(down * height)
    rows = ((np.arange(high) + 0.5) * height / high).astype(np.int64)
    columns = ((np.arange(wide) + 0.5) * width / wide).astype(np.int64)
    result = np.full(view.size, NONE, np.uint8)
    result[int(top) : int(top) + high, int(left) : int(left) + wide] = labels[rows[:, None], columns]
    return result


def augment_with_labels(
    pixels: Bytes, labels: Labels, view: BoxPreprocessing, augment: np.random.Generator
) -> tuple[Bytes, Labels]:
    """Zoom, move, mirror and colour images (N, H, W, C), and their labels (N, H, W) with them.

    What is enlarged is cropped by that; what comes in at an edge is grey and has no label.
    """
    count, height, width = labels.shape
    draws = augment.random((count, 9))
    zoom = (1 + view.zoom) ** (2 * draws[:, 0] - 1)
    right, down = (view.move * (2 * draws[:, index] - 1) for index in (1, 2))
    if view.zoom or view.move:
        left, top = width * (0.5 - zoom / 2 + right), height * (0.5 - zoom / 2 + down)
        pixels, labels = move_images(pixels, zoom, left, top), _moved(labels, zoom, left, top)
    for wanted, axis, column in ((view.mirror, 2, 3), (view.upside_down, 1, 4)):
        if wanted:
            flip = draws[:, column] < 0.5
            pixels[flip], labels[flip] = np.flip(pixels[flip], axis), np.flip(labels[flip], axis)
    if view.colour:
        vary_colour(pixels, 1 + view.colour * (2 * draws[:, 5:] - 1))
    return pixels, labels


def _moved(labels: Labels, zoom: npt.NDArray[Any], left: npt.NDArray[Any], top: npt.NDArray[Any]) -> Labels:
    """Enlarge labels by ``zoom`` and put their corner at ``left`` and ``top``, as ``move_images`` does pixels."""
    result = np.full_like(labels, NONE)
    _, height, width = labels.shape
    for row, (z, x, y) in enumerate(zip(zoom, left, top, strict=True)):
        columns = np.floor((np.arange(width) + 0.5 - x) / z).astype(np.int64)
        rows = np.floor((np.arange(height) + 0.5 - y) / z).astype(np.int64)
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        taken = labels[row][rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
        result[row] = np.where(inside, taken, NONE)
    return result
