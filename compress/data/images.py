"""Folders of images, one per class, decoded by Pillow on demand."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Augmentation, Batch, Indices, Samples, Splits, assign_splits
from compress.data.decoding import (
    UNREADABLE,
    animation_notes,
    other_files_note,
    reason,
)
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.image_folders import find_images
from compress.data.options import Seed, Sides, as_sides, checked_options
from compress.data.transforms import (
    IMAGENET,
    INTERPOLATIONS,
    Box,
    Bytes,
    Normalise,
    centre_box,
    make_normalise,
    random_box,
    random_draws,
    random_mirror,
    random_shift,
)
from deploy.processing.raws import Raw
from deploy.processing.resizing import decoded
from profiles.errors import UserError

AUGMENT = ("crop", "shift", "none")
CROPS = ("centre", "none")
MOST_SIDE = 2**16
"""Pixels of the longest side of an input."""

CROPPED_SHIFT = 8
"""A stored image that was cropped at random before is shifted by up to its side over this."""

NAMED = 5
"""Damaged files of a batch that an error names."""


@final
@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """Resizing, cropping, normalisation and augmentation of an image.

    Attributes:
        size: height and width of the input, in pixels.
        short_side: what the shorter side is brought to before the centre is cut out, when nothing is augmented; 0 stands
            for size / 0.875, as with most models of ImageNet.
        crop: "centre", or "none" where the whole picture is resized to ``size``, whatever its ratio, when nothing is
            augmented.
        interpolation: of all resizing, "bilinear", "bicubic" or "nearest".
        augment: "crop" (a random part of ``least_area`` or more of the picture, resized), "shift" (the centre, moved by
            up to ``shift`` pixels) or "none".
        mirror: whether half of the augmented pictures are mirrored.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    normalise: Normalise
    size: tuple[int, int]
    short_side: int = 0
    crop: str = "centre"
    interpolation: str = "bilinear"
    augment: str = "crop"
    least_area: float = 0.08
    shift: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        faults: list[str] = []
        if not all(1 <= side <= MOST_SIDE for side in self.size):
            faults.append(f"data: size is the input's height and width in pixels, from 1 to {MOST_SIDE}; given: {self.size}")
        if self.short_side and self.short_side < min(self.size):
            words = f"short_side is {min(self.size)} (the shorter side of size) or more, or 0 for that / 0.875"
            faults.append(f"data: {words}; given: {self.short_side}")
        for name, allowed in (("crop", CROPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in allowed:
                faults.append(f"data: {name} is one of {', '.join(allowed)}; given: {getattr(self, name)!r}")
        if self.augment not in AUGMENT:
            faults.append(f"data: augment is one of {', '.join(AUGMENT)}; given: {self.augment!r}")
        if not 0 < self.least_area <= 1:
            faults.append(f"data: least_area is a share of the picture, above 0 and up to 1; given: {self.least_area}")
        if self.shift < 0:
            faults.append(f"data: shift is a number of pixels, 0 or more; given: {self.shift}")
        if faults:
            raise UserError(*faults)

    @property
    def resized_to(self) -> int:
        """Length of the shorter side before the centre crop, in pixels."""
        return self.short_side or round(min(self.size) / 0.875)

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        resize: dict[str, Any] = {"crop": self.crop, "interpolation": f"{self.interpolation}, antialiased"}
        if self.crop == "centre":
            resize = {"short_side": self.resized_to, **resize}
        return {"use": "image", "size": list(self.size), **resize, **self.normalise.as_json()}


class ImageStore(ABC):
    """Images by number. Subclasses are final."""

    @abstractmethod
    def take(self, indices: Indices) -> list[tuple[str, Callable[[], Image.Image]]]:
        """Return each image's name for errors and a function to open it, which may raise Pillow's errors."""

    @abstractmethod
    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each image."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return the file of an image."""


@final
class ImageSamples(Samples):
    """Pictures decoded when they are loaded, as float32 of shape (channels, height, width); ``indices`` are of the shelf."""

    def __init__(self, shelf: ImageStore, indices: Indices, labels: npt.NDArray[np.int64], view: ImagePreprocessing) -> None:
        assert len(indices) == len(labels)
        self.labels = labels
        self._shelf, self._indices, self._view = shelf, indices, view
        shifts = {"shift": view.shift, "crop": min(view.size) // CROPPED_SHIFT}
        self.augmentation = Augmentation(shift=shifts.get(view.augment, 0), mirror=view.mirror)
        self._content = ""

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the images at ``indices``.

        Raises:
            UserError: pictures that cannot be decoded; the first few are named.
        """
        view = self._view
        draws = random_draws(len(indices), augment) if augment is not None and view.augment == "crop" else None
        images = self._decoded(indices, draws)
        if augment is not None:
            if view.augment == "shift":
                images = random_shift(images, view.shift, augment)
            if view.mirror:
                random_mirror(images, augment)
        return Batch(view.normalise(images), self.labels[indices])

    def _decoded(self, indices: Indices, draws: npt.NDArray[np.float64] | None) -> Bytes:
        view = self._view
        images = np.empty((len(indices), view.normalise.channels, *view.size), np.uint8)
        pictures = self._shelf.take(self._indices[indices])

        def decode(row: int) -> str | None:
            name, opened = pictures[row]

            def box(width: int, height: int) -> Box:
                if draws is None and view.crop == "none":
                    return (0, 0, width, height)
                if draws is None:
                    return centre_box(width, height, view.size, view.resized_to)
                return random_box(width, height, view.least_area, draws[row], view.size[1] / view.size[0])

            try:
                with opened() as picture:
                    images[row] = decoded(picture, view.size, view.normalise.channels, box, view.interpolation)
            except UNREADABLE as error:
                return f"data: {name} cannot be decoded ({reason(error, name)}); remove or replace it"
            return None

        bad = [fault for fault in thread_pool().map(decode, range(len(indices))) if fault]
        if bad:
            more = (
                [f"data: {len(bad) - NAMED} more of {len(indices)} pictures cannot be decoded"] if len(bad) > NAMED else []
            )
            raise UserError(*bad[:NAMED], *more)
        return images

    def raw(self, index: int) -> Raw:
        return Raw(value=self._shelf.content(int(self._indices[index])))

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr(self._view).encode())
            digest.update(np.ascontiguousarray(self.labels).data)
            digest.update("".join(self._shelf.digests(self._indices)).encode())
            self._content = digest.hexdigest()
        return self._content


@checked_options("data: images")
def images(
    *,
    path: str | Path,
    size: Sides = 224,
    short_side: int = 0,
    crop: str = "centre",
    interpolation: str = "bilinear",
    labels: str = "folders",
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    augment: str = "crop",
    least_area: float = 0.08,
    shift: int = 4,
    mirror: bool = True,
) -> Splits:
    """Read images from a folder for each class, as float32 of shape (channels, height, width).

    ``path`` holds either the folders ``train``, ``val`` or ``validation``, and ``test``, each with the classes' folders,
    or the classes' folders. What is missing is held out from train as ``compress.data.base.assign_splits`` says. Labels are
    the places of the folders' names in order; ``labels="none"`` takes every picture under ``path``, without labels (-1).
    Hidden files are passed over; files of other kinds too, and counted in the notes. Mean and deviation are those of
    ImageNet unless given; one value each makes grey images. The options of ``ImagePreprocessing`` are described there.

    Raises:
        UserError: folders that are missing, empty or not in train, or an option that is not possible.

    ``size`` is height and width of the input, or one number for both.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=IMAGENET)
    view = ImagePreprocessing(
        normalise=normalise,
        size=as_sides(size),
        short_side=short_side,
        crop=crop,
        interpolation=interpolation,
        augment=augment,
        least_area=least_area,
        shift=shift,
        mirror=mirror,
    )
    root = Path(path).expanduser()
    folders = find_images(root, labels)
    counts = {part: len(pictures) for part, pictures in folders.parts.items()}
    numbers = {part: np.array([label for _, label in pictures], np.int64) for part, pictures in folders.parts.items()}
    chosen = assign_splits(
        counts, validation=validation, test=test, calibration=calibration, seed=seed, labels=numbers["train"]
    )
    return image_splits(
        {part: FileImages(root, [name for name, _ in pictures]) for part, pictures in folders.parts.items()},
        numbers,
        chosen,
        view,
        folders.classes,
        notes=[
            *other_files_note(folders.others, root),
            *animation_notes([root / name for pictures in folders.parts.values() for name, _ in pictures]),
        ],
    )


def image_splits(
    shelves: Mapping[str, ImageStore],
    labels: Mapping[str, npt.NDArray[np.int64]],
    chosen: Mapping[str, tuple[str, Indices]],
    view: ImagePreprocessing,
    classes: tuple[str, ...],
    notes: Sequence[str] = (),
) -> Splits:
    """Make splits of the parts' image stores and labels, as ``assign_splits`` chose; only training is augmented."""
    plain = ImagePreprocessing(
        normalise=view.normalise,
        size=view.size,
        short_side=view.short_side,
        crop=view.crop,
        interpolation=view.interpolation,
        augment="none",
        mirror=False,
    )
    samples: dict[str, Any] = {
        name: ImageSamples(shelves[part], indices, labels[part][indices], view if name == "train" else plain)
        for name, (part, indices) in chosen.items()
    }
    return Splits(**samples, classes=classes, preprocessing=view.as_json(), notes=tuple(notes))


@final
class FileImages(ImageStore):
    """Files under one folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root, self._names = root, names

    def take(self, indices: Indices) -> list[tuple[str, Callable[[], Image.Image]]]:
        paths = [self._root / self._names[index] for index in indices]
        return [(str(path), lambda path=path: Image.open(path)) for path in paths]  # type: ignore[misc]

    def digests(self, indices: Indices) -> list[str]:
        names = [self._names[index] for index in indices]
        known = file_digests(self._root, names)
        return [known[name] for name in names]

    def content(self, index: int) -> bytes:
        return (self._root / self._names[index]).read_bytes()
