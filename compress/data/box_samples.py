"""Images with boxes, held at the input's size, and splits of them.

Images are turned as their EXIF says, and boxes with them. A tool for annotation shows an image so, and its boxes are of what
it shows; a tool that does not has the size of the stored pixels in its file, and its boxes are turned here. Where both sizes
are equal (a turn by 180 degrees, a mirror image), boxes are of the image as shown.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from compress.data.base import Batch, Indices, Samples, Splits, assign_splits
from compress.data.box_transforms import LEAST_SIDE_PX, Boxes, BoxPreprocessing, augment_with_boxes, fit_image
from compress.data.decoding import UNREADABLE, Header, frames_note, read_headers, reason, turned_boxes, upright
from compress.data.fingerprints import file_digests, thread_pool
from compress.data.object_rows import empty_row, joined, turned_points
from compress.data.transforms import Bytes
from deploy.files import allocate
from deploy.processing.raws import Raw
from profiles.errors import UserError

IN_MEMORY_BYTES = 2**30
"""More pixels than this are held in a file on disk."""

NAMED = 5
"""Faults of one kind that an error names."""

ORIENTATION_NOTES = {
    "shown": "{} images are turned as their EXIF says; their boxes are of the image as shown",
    "stored": "{} images are turned as their EXIF says, and their boxes, which are of the pixels as stored, with them",
}

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""What the parts of a data set are called."""


@final
@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """File of an image, its size and its boxes.

    Attributes:
        file: under the data set's folder.
        size: width and height of the annotated image, in pixels.
        boxes: of shape (boxes, 5), in pixels of that.
        more: vertices of each one's mask, or its keypoints, (boxes, points, 3) (``deploy.processing.detection.rows``).
        areas: of figures with keypoints, (boxes,).
    """

    file: str
    size: tuple[int, int]
    boxes: Boxes
    more: Boxes | None = None
    areas: Boxes | None = None


@final
class ImageCache:
    """Images of one part at the input's size, decoded at first use and kept.

    They are uint8 of shape (pictures, height, width, channels), in memory, or when that is much in a file without a
    name, in $COMPRESS_STEPS or where temporary files go, that is gone with the process.
    """

    def __init__(self, root: Path, drawn: Sequence[AnnotatedImage], view: BoxPreprocessing) -> None:
        self.drawn, self._root, self._view = drawn, root, view
        self._shape = (len(drawn), *view.size, view.normalise.channels)
        self._pixels: Bytes | None = None
        self._there = np.zeros(len(drawn), bool)

    def take(self, indices: Indices) -> Bytes:
        """Return copies of the images at ``indices``, (images, height, width, channels).

        Raises:
            UserError: images that cannot be decoded.
        """
        if self._pixels is None:
            self._pixels = room(self._shape)
        missing = [int(index) for index in np.unique(indices) if not self._there[index]]
        faults = [fault for fault in thread_pool().map(self._decode, missing) if fault]
        if faults:
            raise UserError(*first_faults(faults))
        return self._pixels[indices]

    def content(self, index: int) -> bytes:
        """Return the file of an image."""
        return (self._root / self.drawn[index].file).read_bytes()

    def digests(self, indices: Indices) -> list[str]:
        """Hash the content of each image."""
        names = [self.drawn[index].file for index in indices]
        known = file_digests(self._root, names)
        return [known[name] for name in names]

    def _decode(self, index: int) -> str | None:
        assert self._pixels is not None
        path = self._root / self.drawn[index].file
        try:
            with Image.open(path) as picture:
                self._pixels[index] = fit_image(upright(picture, self._view.normalise.channels), self._view)
        except UNREADABLE as error:
            return f"data: {path} cannot be decoded ({reason(error, path)}); remove or replace it"
        self._there[index] = True
        return None


@final
class BoxSamples(Samples):
    """Images with boxes; ``indices`` refer to the image cache."""

    def __init__(self, held: ImageCache, indices: Indices, view: BoxPreprocessing, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._held, self._indices, self._view = held, indices, view
        self._rows = [_fitted(held.drawn[index], view) for index in indices]
        self._most = max([1, *map(len, self._rows)])
        self._content = ""

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the images at ``indices`` with their boxes."""
        pixels, boxes = self._held.take(self._indices[indices]), _filled([self._rows[i] for i in indices], self._most)
        if augment is not None:
            pixels, boxes = augment_with_boxes(pixels, boxes, self._view, augment)
        return Batch(self._view.normalise(np.moveaxis(pixels, 3, 1)), boxes)

    def raw(self, index: int) -> Raw:
        return Raw(value=self._held.content(int(self._indices[index])))

    def fingerprint(self) -> str:
        if not self._content:
            digest = hashlib.sha256(repr((self._view, self.classes)).encode())
            for rows in self._rows:
                digest.update(repr(rows.shape).encode() + rows.tobytes())
            digest.update("".join(self._held.digests(self._indices)).encode())
            self._content = digest.hexdigest()
        return self._content


def box_splits(
    root: Path,
    parts: Mapping[str, Sequence[AnnotatedImage]],
    view: BoxPreprocessing,
    *,
    classes: tuple[str, ...],
    notes: Sequence[str],
    validation: float,
    test: float,
    calibration: int,
    seed: int,
) -> Splits:
    """Make splits of annotated images under ``root``; only training is augmented.

    Raises:
        UserError: pictures that are not there, no box in any of them, or sizes of splits that are not possible.
    """
    missing = [f"data: {root / d.file} is annotated and not there" for p in parts.values() for d in p if not _is(root, d)]
    if missing:
        raise UserError(*first_faults(missing))
    shown, orientation_notes = _shown(root, parts)
    kept, dropped = {}, 0
    for part, drawn in shown.items():
        kept[part] = [clip_boxes(each) for each in drawn]
        dropped += sum(len(a.boxes) - len(b.boxes) for a, b in zip(drawn, kept[part], strict=True))
    if not any(len(each.boxes) for drawn in kept.values() for each in drawn):
        pictures = sum(len(drawn) for drawn in kept.values())
        raise UserError(f"data: {root}: not one of {pictures} pictures has a box; is this the right folder?")
    counts = {part: len(drawn) for part, drawn in kept.items()}
    chosen = assign_splits(counts, validation=validation, test=test, calibration=calibration, seed=seed)
    held = {part: ImageCache(root, drawn, view) for part, drawn in kept.items()}
    samples: dict[str, Any] = {
        name: BoxSamples(held[part], indices, view, classes) for name, (part, indices) in chosen.items()
    }
    all_notes = [*notes, *orientation_notes]
    all_notes += [f"{dropped} boxes without extent inside their picture were dropped"] if dropped else []
    return Splits(**samples, classes=classes, preprocessing=view.as_json(), notes=tuple(all_notes))


def _shown(root: Path, parts: Mapping[str, Sequence[AnnotatedImage]]) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Turn annotations to the images as shown, by the heads of their files; with notes on what was turned.

    Raises:
        UserError: images that cannot be opened, or of another size than their annotation says.
    """
    shown: dict[str, list[AnnotatedImage]] = {}
    faults: list[str] = []
    counts: Counter[str] = Counter()
    for part, images in parts.items():
        headers = read_headers([root / image.file for image in images])
        pairs = zip(images, headers, strict=True)
        shown[part] = [_turned(root, image, header, counts, faults) for image, header in pairs]
    if faults:
        raise UserError(*first_faults(faults))
    notes = [words.format(counts[key]) for key, words in ORIENTATION_NOTES.items() if counts[key]]
    return shown, notes + ([frames_note(counts["frames"])] if counts["frames"] else [])


def _turned(
    root: Path, image: AnnotatedImage, header: Header | str, counts: Counter[str], faults: list[str]
) -> AnnotatedImage:
    if isinstance(header, str):
        faults.append(header)
        return image
    counts["frames"] += header.frames
    if image.size == header.shown:
        counts["shown"] += header.orientation != 1
        return image
    if image.size == header.stored:
        counts["stored"] += 1
        boxes = turned_boxes(image.boxes, header.stored, header.orientation)
        more = None if image.more is None else turned_points(image.more, header.stored, header.orientation)
        return replace(image, size=header.shown, boxes=boxes, more=more)
    given, stated = _times(header.shown), _times(image.size)
    faults.append(f"data: {root / image.file} is of {given} pixels, and its annotation says {stated}; boxes would be off")
    return image


def clip_boxes(drawn: AnnotatedImage) -> AnnotatedImage:
    """Clip boxes to their image, and drop those without extent inside it."""
    width, height = drawn.size
    boxes = drawn.boxes.copy()
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, width)
    boxes[:, 2::2] = boxes[:, 2::2].clip(0, height)
    real = (boxes[:, 3] - boxes[:, 1] > LEAST_SIDE_PX) & (boxes[:, 4] - boxes[:, 2] > LEAST_SIDE_PX)
    more, areas = (None if each is None else each[real] for each in (drawn.more, drawn.areas))
    return replace(drawn, boxes=boxes[real], more=more, areas=areas)


def first_faults(faults: Sequence[str]) -> list[str]:
    """Return the first few faults of one kind, and a line with the number of further ones."""
    more = len(faults) - NAMED
    return [*faults[:NAMED], *([f"data: and {more} more of this kind"] if more > 0 else [])]


def as_boxes(rows: Sequence[Sequence[float]]) -> Boxes:
    """Convert rows of [label, x1, y1, x2, y2] to an array of shape (boxes, 5)."""
    return np.array(rows, np.float32).reshape(-1, 5)


def _fitted(drawn: AnnotatedImage, view: BoxPreprocessing) -> Boxes:
    """A picture's rows in pixels of the input."""
    across, down, left, top = view.fit(*drawn.size)
    boxes = drawn.boxes * np.array([1, across, down, across, down], np.float32)
    boxes = boxes + np.array([0, left, top, left, top], np.float32)
    if drawn.more is None:
        return boxes
    more = drawn.more * np.array([across, down, 1], np.float32) + np.array([left, top, 0], np.float32)
    return joined(boxes, more, None if drawn.areas is None else drawn.areas * across * down)


def _filled(boxes: Sequence[Boxes], most: int) -> Boxes:
    """Rows of each sample as one array, ``most`` each, filled up with rows of label -1.

    Masks are filled up to the vertices of the batch's largest: to those of a whole data set they would fill the memory.
    """
    padded = np.tile(empty_row(max(each.shape[1] for each in boxes)), (len(boxes), most, 1))
    for row, each in zip(padded, boxes, strict=True):
        row[: len(each), : each.shape[1]] = each
    return padded


def room(shape: tuple[int, ...]) -> Bytes:
    """Make an array of bytes in memory, or where that is much in a file without a name that is gone with the process."""
    if math.prod(shape) <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    steps = Path(os.environ.get("COMPRESS_STEPS", "runs/.steps"))
    file = tempfile.TemporaryFile(dir=steps if steps.is_dir() else None)  # noqa: SIM115  # open as long as the array is
    allocate(file, math.prod(shape), steps if steps.is_dir() else Path(tempfile.gettempdir()))
    return np.memmap(file, np.uint8, "w+", shape=shape)


def _is(root: Path, drawn: AnnotatedImage) -> bool:
    return (root / drawn.file).is_file()


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
