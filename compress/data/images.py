"""Folders of pictures, one a class: JPEG, PNG, WebP and BMP, decoded by Pillow when they are asked for."""

from __future__ import annotations

import hashlib
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Batch, Indices, Samples, Splits, assign_splits
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.options import Seed, checked_options
from compress.data.transforms import (
    IMAGENET,
    Box,
    Bytes,
    Normalise,
    centre_box,
    make_normalise,
    random_box,
    random_draws,
    random_mirror,
    random_shift,
    resize_crop,
)
from profiles.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""Names of the folders that a part may come in."""

AUGMENT = ("crop", "shift", "none")
ORIENTATION = 0x0112
"""The tag of EXIF that says how the camera was held."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each of its values; it is done here, since Pillow's own fails where other tags are damaged."""

SIDEWAYS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])

GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the pixels a side that are needed."""

NAMED = 5
"""Damaged files of a batch that an error names."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files; a broken PNG is a ``SyntaxError`` to it."""


@final
@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """Resizing, cropping, normalisation and augmentation of an image.

    Attributes:
        size: of the input's sides, in pixels.
        short_side: what the shorter side is brought to before the centre is cut out, when nothing is augmented; 0 stands
            for size / 0.875, as with most models of ImageNet.
        augment: "crop" (a random part of ``least_area`` or more of the picture, resized), "shift" (the centre, moved by
            up to ``shift`` pixels) or "none".
        mirror: whether half of the augmented pictures are mirrored.

    Raises:
        UserError: any of them is not possible; all of them.
    """

    normalise: Normalise
    size: int
    short_side: int = 0
    augment: str = "crop"
    least_area: float = 0.08
    shift: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        faults: list[str] = []
        if self.size < 1:
            faults.append(f"data: size is the input's side in pixels, 1 or more; given: {self.size}")
        if self.short_side and self.short_side < self.size:
            words = f"short_side is {self.size} (size) or more, or 0 for size / 0.875"
            faults.append(f"data: {words}; given: {self.short_side}")
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
        return self.short_side or round(self.size / 0.875)

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        resize = {"short_side": self.resized_to, "crop": "centre", "interpolation": "bilinear, antialiased"}
        return {"size": [self.size, self.size], **resize, **self.normalise.as_json()}


class ImageStore(ABC):
    """Images by number. Subclasses are final."""

    @abstractmethod
    def take(self, indices: Indices) -> list[tuple[str, Callable[[], Image.Image]]]:
        """Return each image's name for errors and a function to open it, which may raise Pillow's errors."""

    @abstractmethod
    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each image."""


@final
class ImageSamples(Samples):
    """Pictures decoded when they are loaded, as float32 of shape (channels, size, size); ``indices`` are of the shelf."""

    def __init__(self, shelf: ImageStore, indices: Indices, labels: npt.NDArray[np.int64], view: ImagePreprocessing) -> None:
        assert len(indices) == len(labels)
        self.labels = labels
        self._shelf, self._indices, self._view = shelf, indices, view
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
        images = np.empty((len(indices), view.normalise.channels, view.size, view.size), np.uint8)
        pictures = self._shelf.take(self._indices[indices])

        def decode(row: int) -> str | None:
            name, opened = pictures[row]

            def box(width: int, height: int) -> Box:
                if draws is None:
                    return centre_box(width, height, view.size, view.resized_to)
                return random_box(width, height, view.least_area, draws[row])

            try:
                with opened() as picture:
                    images[row] = decoded(picture, view.size, view.normalise.channels, box)
            except UNREADABLE as error:
                return f"data: {name} cannot be decoded ({error}); remove or replace it"
            return None

        bad = [fault for fault in thread_pool().map(decode, range(len(indices))) if fault]
        if bad:
            more = (
                [f"data: {len(bad) - NAMED} more of {len(indices)} pictures cannot be decoded"] if len(bad) > NAMED else []
            )
            raise UserError(*bad[:NAMED], *more)
        return images

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr(self._view).encode())
            digest.update(np.ascontiguousarray(self.labels).data)
            digest.update("".join(self._shelf.digests(self._indices)).encode())
            self._content = digest.hexdigest()
        return self._content


def decoded(picture: Image.Image, size: int, channels: int, box: Callable[[int, int], Box]) -> Bytes:
    """A part of an opened picture as (channels, size, size).

    Turned as EXIF says; grey, palette and CMYK to RGB, transparency dropped, 16 bits to the upper 8.

    Args:
        box: from the picture's width and height to the part that is wanted.
    """
    turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    sideways = turn in SIDEWAYS
    width, height = (picture.height, picture.width) if sideways else picture.size
    left, top, right, bottom = box(width, height)
    across, down = int(width * size / (right - left) * GAP), int(height * size / (bottom - top) * GAP)
    picture.draft("RGB" if channels == 3 else "L", (down, across) if sideways else (across, down))
    if turn is not None:
        picture = picture.transpose(turn)
    shrunk = (picture.width / width, picture.height / height)
    part = (left * shrunk[0], top * shrunk[1], right * shrunk[0], bottom * shrunk[1])
    pixels: Bytes = np.asarray(resize_crop(_eight_bits(picture, channels), size, part))
    return np.moveaxis(pixels.reshape(size, size, channels), 2, 0)


def _eight_bits(picture: Image.Image, channels: int) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits: Pillow's own conversion makes white of all above 255
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 256).astype(np.uint8))
    return picture.convert("RGB" if channels == 3 else "L")


@checked_options("data: images")
def images(
    *,
    path: str | Path,
    size: int = 224,
    short_side: int = 0,
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
    """Pictures in a folder for each class, as float32 of shape (channels, size, size).

    ``path`` holds either the folders ``train``, ``val`` or ``validation``, and ``test``, each with the classes' folders,
    or the classes' folders. What is missing is held out from train as ``compress.data.base.assign_splits`` says. Labels are
    the places of the folders' names in order; ``labels="none"`` takes every picture under ``path``, without labels (-1).
    Hidden files and files of other kinds are passed over. Mean and deviation are those of ImageNet unless given; one value
    each makes grey images. The options of ``ImagePreprocessing`` are described there.

    Raises:
        UserError: folders that are missing, empty or not in train, or an option that is not possible.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=IMAGENET)
    view = ImagePreprocessing(
        normalise=normalise,
        size=size,
        short_side=short_side,
        augment=augment,
        least_area=least_area,
        shift=shift,
        mirror=mirror,
    )
    root = Path(path).expanduser()
    folders = _found(root, labels)
    counts = {part: len(pictures) for part, pictures in folders.parts.items()}
    chosen = assign_splits(counts, validation=validation, test=test, calibration=calibration, seed=seed)
    return image_splits(
        {part: _Files(root, [name for name, _ in pictures]) for part, pictures in folders.parts.items()},
        {part: np.array([label for _, label in pictures], np.int64) for part, pictures in folders.parts.items()},
        chosen,
        view,
        folders.classes,
    )


def image_splits(
    shelves: Mapping[str, ImageStore],
    labels: Mapping[str, npt.NDArray[np.int64]],
    chosen: Mapping[str, tuple[str, Indices]],
    view: ImagePreprocessing,
    classes: tuple[str, ...],
) -> Splits:
    """Make splits of the parts' image stores and labels, as ``assign_splits`` chose; only training is augmented."""
    plain = ImagePreprocessing(
        normalise=view.normalise, size=view.size, short_side=view.short_side, augment="none", mirror=False
    )
    samples: dict[str, Any] = {
        name: ImageSamples(shelves[part], indices, labels[part][indices], view if name == "train" else plain)
        for name, (part, indices) in chosen.items()
    }
    return Splits(**samples, classes=classes, preprocessing=view.as_json())


@final
class _Files(ImageStore):
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


@final
@dataclass(frozen=True, kw_only=True)
class _Found:
    """Pictures of each part as (name under the root, label), and the classes."""

    parts: Mapping[str, Sequence[tuple[str, int]]]
    classes: tuple[str, ...]


def _found(root: Path, labels: str) -> _Found:
    if labels not in ("folders", "none"):
        raise UserError(f'data: labels is "folders" or "none"; given: {labels!r}')
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give one that holds a folder of pictures for each class")
    folders = {part: [root / name for name in names if (root / name).is_dir()] for part, names in FOLDERS.items()}
    present = {part: there[0] for part, there in folders.items() if there}
    if present and "train" not in present:
        given = ", ".join(folder.name for folder in present.values())
        raise UserError(f"data: {root} has {given} and no train; name the folder of the training pictures 'train'")
    present = present or {"train": root}
    if labels == "none":
        return _unlabelled(root, present)
    return _labelled(root, present)


def _unlabelled(root: Path, present: Mapping[str, Path]) -> _Found:
    parts = {part: [(name, -1) for name in _pictures(folder, root)] for part, folder in present.items()}
    empty = [_nothing(present[part]) for part, pictures in parts.items() if not pictures]
    if empty:
        raise UserError(*empty)
    return _Found(parts=parts, classes=())


def _labelled(root: Path, present: Mapping[str, Path]) -> _Found:
    classes = tuple(_classes(present["train"]))
    faults: list[str] = []
    if not classes:
        words = 'a folder of pictures for each class is expected; for pictures without labels say labels = "none"'
        faults.append(f"data: {present['train']} holds no folders; {words}")
    parts: dict[str, list[tuple[str, int]]] = {}
    for part, folder in present.items():
        parts[part] = []
        for name in _classes(folder):
            if name not in classes:
                faults.append(f"data: {folder / name} is a class that {present['train']} has not")
                continue
            pictures = _pictures(folder / name, root)
            if not pictures:
                faults.append(_nothing(folder / name))
            parts[part] += [(picture, classes.index(name)) for picture in pictures]
    if faults:
        raise UserError(*faults)
    return _Found(parts=parts, classes=classes)


def _nothing(folder: Path) -> str:
    return f"data: {folder} holds no picture; known kinds: {', '.join(SUFFIXES)}; remove the folder or fill it"


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path, root: Path) -> list[str]:
    """Names under ``root`` of the pictures anywhere under ``folder``, in order."""
    names_under_root: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        under = os.path.relpath(place, root)
        shown = (name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        names_under_root += [os.path.join(under, name) for name in shown]
    return sorted(names_under_root)
