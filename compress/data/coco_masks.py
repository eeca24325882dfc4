"""COCO's polygons and run lengths as a class label for each pixel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from compress.data.base import Indices, Splits
from compress.data.box_samples import first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.coco_files import (
    category_labels,
    category_names,
    part_files,
    picture_file,
    picture_folder,
    read_tables,
)
from compress.data.coco_shapes import polygons_of, read_runs
from compress.data.decoding import Size
from compress.data.mask_samples import MOST_CLASSES, NONE, Labels, MaskStore, mask_splits
from compress.data.options import Seed, Sides, checked_options
from deploy.processing.detection.rows import draw
from profiles.errors import UserError, one_line

BACKGROUND = "background"


@checked_options("data: coco_masks")
def coco_masks(
    *,
    path: str | Path,
    size: Sides,
    classes: Sequence[str] = (),
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
    """Read images with the shapes of COCO's ``segmentation`` drawn into a label for each pixel.

    Folders and files are those of ``compress.data.coco``. Label 0 is the background, where no shape is; the categories
    follow. Larger shapes are drawn first, so that a small one before a large one is seen. Pixels of crowds have no label.
    The other options are those of ``compress.data.masks``.

    Args:
        classes: names in the order of the labels, without the background; without, train's in the order of their ids.

    Raises:
        UserError: what is missing, not such JSON, of an unknown class or no shape; all of it.
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
    files = part_files(root)
    tables = read_tables(files, "segmentation")
    names = tuple(classes) or category_names(tables["train"])
    faults = [f"data: {len(names)} classes; at most {MOST_CLASSES - 1} can be held"] if len(names) >= MOST_CLASSES else []
    stores = {part: _Shapes(root, files[part], table, names, faults) for part, table in tables.items()}
    if faults:
        raise UserError(*first_faults(faults))
    return mask_splits(
        root,
        {part: store.files for part, store in stores.items()},
        stores,
        view,
        classes=(BACKGROUND, *names),
        notes=[],
        validation=validation,
        test=test,
        calibration=calibration,
        seed=seed,
    )


@final
class _Shapes(MaskStore):
    """The shapes of each picture of a part; what is wrong with them is added to ``faults``."""

    def __init__(self, root: Path, file: Path, table: Mapping[str, Any], classes: Sequence[str], faults: list[str]) -> None:
        labels = category_labels(file, table, classes, faults)
        folder, self._file = picture_folder(root, file), file
        pictures = table["images"]
        self.files = [str(picture_file(root, folder, str(each["file_name"]))) for each in pictures]
        self._sizes = [(int(each["height"]), int(each["width"])) for each in pictures]
        missing = [f"data: {root / name} is annotated and not there" for name in self.files if not (root / name).is_file()]
        faults += missing
        places = {each["id"]: number for number, each in enumerate(pictures)}
        self._shapes: list[list[tuple[int, Any]]] = [[] for _ in pictures]
        for entry in table["annotations"]:
            if entry["image_id"] not in places:
                faults.append(f"data: {file}: a shape is of the picture {entry['image_id']}, which is not in images")
            elif entry["category_id"] not in labels:
                faults.append(f"data: {file}: a shape is of the category {entry['category_id']}, which is not in categories")
            elif labels[entry["category_id"]] >= 0 and entry["segmentation"]:
                label = NONE if entry.get("iscrowd") else 1 + labels[entry["category_id"]]
                self._shapes[places[entry["image_id"]]].append((label, entry["segmentation"]))

    def read(self, index: int, sizes: Sequence[Size]) -> Labels:
        height, width = self._sizes[index]
        if (width, height) not in sizes:
            given, stated = f"{sizes[0][0]}x{sizes[0][1]}", f"{width}x{height}"
            words = f"{self.files[index]} is of {given} pixels, and its annotation says {stated}; shapes would be off"
            raise UserError(f"data: {words}")
        drawn = []
        for label, shape in self._shapes[index]:
            try:
                drawn.append((label, _drawn(shape, height, width)))
            except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
                words = one_line(str(error), 120)
                raise UserError(f"data: {self._file}: a segmentation of {self.files[index]} is no shape ({words})") from None
        result = np.zeros((height, width), np.uint8)
        for label, mask in sorted(drawn, key=lambda each: -int(each[1].sum())):
            result[mask] = label
        return result

    def digests(self, indices: Indices) -> list[str]:
        told = [json.dumps((self._sizes[i], self._shapes[i]), sort_keys=True) for i in indices]
        return [hashlib.sha256(text.encode()).hexdigest() for text in told]


def _drawn(shape: Any, height: int, width: int) -> Any:
    """Draw polygons or run lengths as a mask (height, width) of bool.

    Raises:
        ValueError: it is neither, or not of that size.
    """
    if not isinstance(shape, list):
        return read_runs(shape, height, width)
    return draw(polygons_of(shape, height, width), height, width)
