"""YOLO's layout: folders of images, and for each a text file with a row per box."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import final

from compress.data.base import Splits
from compress.data.box_samples import AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.decoding import SUFFIXES, Header, is_image, other_files_note, read_headers, read_text, suffix_of
from compress.data.options import Seed, Sides, checked_options
from profiles.errors import UserError

PREFIXES = {"train": "train", "val": "validation", "test": "test"}
"""How the folders of each part begin: ``val``, ``valid``, ``validation``, ``val2017``."""


@checked_options("data: yolo")
def yolo(
    *,
    path: str | Path,
    size: Sides,
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
        size: height and width of the input, or one number for both.
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
    notes += [f"{reader.polygons} polygons were read as the boxes around them"] if reader.polygons else []
    notes += other_files_note(reader.others, root)
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
    return tuple(row.strip() for row in read_text(root / names).splitlines() if row.strip())


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
        self.without = self.polygons = 0
        self.others: Counter[str] = Counter()

    def part(self, pictures: Path, boxes: Path) -> list[AnnotatedImage]:
        """The annotated pictures of a part."""
        names = [entry.name for entry in os.scandir(pictures) if entry.is_file() and not entry.name.startswith(".")]
        files = sorted(name for name in names if is_image(name))
        self.others.update(suffix_of(name) for name in names if not is_image(name))
        if not files:
            self.faults.append(f"data: {pictures} holds no picture; known kinds: {', '.join(SUFFIXES)}")
        if not boxes.is_dir():
            self.faults.append(f"data: {boxes} is not there; it holds a text file of boxes for each picture")
            return []
        headers = read_headers([pictures / file for file in files])
        self.faults += [header for header in headers if isinstance(header, str)]
        return [
            AnnotatedImage(
                file=str((pictures / file).relative_to(self._root)),
                size=header.shown,
                boxes=as_boxes(self._rows(boxes, file, header.shown)),
            )
            for file, header in zip(files, headers, strict=True)
            if isinstance(header, Header)
        ]

    def _rows(self, boxes: Path, file: str, size: tuple[int, int]) -> list[list[float]]:
        path = (boxes / file).with_suffix(".txt")
        if not path.is_file():
            self.without += 1
            return []
        return [
            row
            for number, text in enumerate(read_text(path).splitlines(), 1)
            if (row := self._row(path, number, text, size))
        ]

    def _row(self, path: Path, number: int, text: str, size: tuple[int, int]) -> list[float]:
        """[label, x1, y1, x2, y2] in pixels; empty for an empty row, and for a fault, which is kept."""
        parts, where = text.split(), f"data: {path}, row {number}"
        if not parts:
            return []
        try:
            label, *values = (float(part) for part in parts)
            x, y, wide, high = values if len(values) == 4 else _around(values)
        except ValueError:
            words = 'a row is "class x y width height", or a polygon "class x1 y1 x2 y2 x3 y3 ..."'
            self.faults.append(f"{where}: {words}; given: {text[:60]!r}")
            return []
        if not label.is_integer() or not 0 <= label < self._classes:
            self.faults.append(f"{where}: class {parts[0]} is unknown; allowed: 0 to {self._classes - 1}")
        elif not all(math.isfinite(value) and -1 <= value <= 2 for value in values):
            self.faults.append(f"{where}: positions are shares of the picture, from 0 to 1; given: {text[:60]!r}")
        else:
            self.polygons += len(values) > 4
            across, down = size
            return [label, (x - wide / 2) * across, (y - high / 2) * down, (x + wide / 2) * across, (y + high / 2) * down]
        return []


def _around(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return centre and size of the box around a polygon of three points or more; ``ValueError`` where it is none."""
    if len(values) < 6 or len(values) % 2:
        raise ValueError("no polygon")
    across, down = values[::2], values[1::2]
    left, right, top, bottom = min(across), max(across), min(down), max(down)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
