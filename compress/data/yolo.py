"""YOLO's layout: folders of images, and for each a text file with a row per box."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

from PIL import Image

from compress.data.base import Splits
from compress.data.box_samples import BROKEN, AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.fingerprints import thread_pool
from compress.data.images import SUFFIXES
from compress.data.options import Seed, checked_options
from profiles.errors import UserError

PREFIXES = {"train": "train", "val": "validation", "test": "test"}
"""How the folders of each part begin: ``val``, ``valid``, ``validation``, ``val2017``."""


@checked_options("data: yolo")
def yolo(
    *,
    path: str | Path,
    size: Sequence[int],
    classes: Sequence[str] = (),
    names: str = "",
    resize: str = "plain",
    antialias: bool = True,
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    mirror: bool = True,
    upside_down: bool = False,
    zoom: float = 0.25,
    move: float = 0.1,
    colour: float = 0.1,
) -> Splits:
    """Read images with rows of "class centre-x centre-y width height" or polygons, as float32 (channels, height, width).

    ``path`` holds ``images`` and ``labels``, and in each a folder whose name begins with ``train``, and where there are
    such one with ``val`` and one with ``test``; or ``train/images`` and ``train/labels`` and so on. What is missing is
    held out as ``compress.data.base.assign_splits`` says. A picture without a text file has no box. The other options are
    those of ``compress.data.box_transforms.BoxPreprocessing``.

    Args:
        size: height and width of the input.
        classes: names in the order of the labels.
        names: a file under ``path`` with a name a row, instead of ``classes``.

    Raises:
        UserError: what is missing, not such a row, of an unknown class or not possible; all of it.
    """
    view = make_box_preprocessing(
        size=size,
        mean=mean,
        deviation=deviation,
        order=order,
        scale=scale,
        resize=resize,
        antialias=antialias,
        mirror=mirror,
        upside_down=upside_down,
        zoom=zoom,
        move=move,
        colour=colour,
    )
    root = Path(path).expanduser()
    known = _known(root, classes, names)
    reader = _Reader(root, len(known))
    parts = {part: reader.part(*folders) for part, folders in _folders(root).items()}
    if reader.faults:
        raise UserError(*first_faults(reader.faults))
    notes = [f"{reader.without} pictures have no file of boxes"] if reader.without else []
    return box_splits(
        root, parts, view, classes=known, notes=notes, validation=validation, test=test, calibration=calibration, seed=seed
    )


def _known(root: Path, classes: Sequence[str], names: str) -> tuple[str, ...]:
    if bool(classes) == bool(names):
        raise UserError('data: give either classes, a list of names, or names, a file under path such as "coco.names"')
    if classes:
        return tuple(classes)
    if not (root / names).is_file():
        raise UserError(f"data: names: {root / names} is not there; give a file under path with a name a row")
    return tuple(row.strip() for row in (root / names).read_text().splitlines() if row.strip())


def _folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of pictures and of boxes of each part."""
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give one that holds images/train and labels/train")
    inner = (root / "images").is_dir()
    folders: dict[str, tuple[Path, Path]] = {}
    for name in sorted(os.listdir(root / "images" if inner else root)):
        pictures, boxes = (root / kind / name if inner else root / name / kind for kind in ("images", "labels"))
        part = next((part for prefix, part in PREFIXES.items() if name.startswith(prefix)), None)
        if part is None or not pictures.is_dir():
            continue
        if part in folders:
            words = f"{folders[part][0]} and {pictures}"
            raise UserError(f"data: {words} are both pictures for {part}; leave one of them in {root}")
        folders[part] = (pictures, boxes)
    if "train" not in folders:
        raise UserError(f"data: {root} has neither images/train nor train/images; one of them holds the training pictures")
    return folders


@final
class _Reader:
    """Reads pictures' sizes and boxes, and collects what is wrong with them."""

    def __init__(self, root: Path, classes: int) -> None:
        self._root, self._classes = root, classes
        self.faults: list[str] = []
        self.without = 0

    def part(self, pictures: Path, boxes: Path) -> list[AnnotatedImage]:
        """The annotated pictures of a part."""
        files = sorted(file for file in os.listdir(pictures) if file.lower().endswith(SUFFIXES) and file[0] != ".")
        if not files:
            self.faults.append(f"data: {pictures} holds no picture; known kinds: {', '.join(SUFFIXES)}")
        if not boxes.is_dir():
            self.faults.append(f"data: {boxes} is not there; it holds a text file of boxes for each picture")
            return []
        sizes = list(thread_pool().map(_size, [pictures / file for file in files]))
        self.faults += [size for size in sizes if isinstance(size, str)]
        return [
            AnnotatedImage(
                file=str((pictures / file).relative_to(self._root)), size=size, boxes=as_boxes(self._rows(boxes, file, size))
            )
            for file, size in zip(files, sizes, strict=True)
            if not isinstance(size, str)
        ]

    def _rows(self, boxes: Path, file: str, size: tuple[int, int]) -> list[list[float]]:
        path = (boxes / file).with_suffix(".txt")
        if not path.is_file():
            self.without += 1
            return []
        return [
            row
            for number, text in enumerate(path.read_text().splitlines(), 1)
            if (row := self._row(path, number, text, size))
        ]

    def _row(self, path: Path, number: int, text: str, size: tuple[int, int]) -> list[float]:
        """[label, x1, y1, x2, y2] in pixels; empty for an empty row, and for a fault, which is kept."""
        parts, where = text.split(), f"data: {path}, row {number}"
        if not parts:
            return []
        try:
            label, x, y, wide, high = (float(part) for part in parts)
        except ValueError:
            self.faults.append(f'{where}: a row is "class x y width height"; given: {text[:60]!r}')
            return []
        if label != int(label) or not 0 <= label < self._classes:
            self.faults.append(f"{where}: class {parts[0]} is unknown; allowed: 0 to {self._classes - 1}")
        elif not all(math.isfinite(value) and -1 <= value <= 2 for value in (x, y, wide, high)):
            self.faults.append(f"{where}: positions are shares of the picture, from 0 to 1; given: {text[:60]!r}")
        else:
            across, down = size
            return [label, (x - wide / 2) * across, (y - high / 2) * down, (x + wide / 2) * across, (y + high / 2) * down]
        return []


def _size(path: Path) -> tuple[int, int] | str:
    """Width and height of a picture, from its head; or why there is none."""
    try:
        with Image.open(path) as picture:
            return int(picture.width), int(picture.height)
    except BROKEN as error:
        return f"data: {path} cannot be opened ({error}); remove or replace it"
