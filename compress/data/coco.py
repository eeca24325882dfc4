"""COCO: a JSON file of images, categories and boxes for each part, and folders of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from compress.data.base import Splits
from compress.data.box_samples import AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import Boxes, make_box_preprocessing
from compress.data.coco_files import (
    INSTANCES,
    KEYPOINTS,
    category_labels,
    category_names,
    part_files,
    picture_file,
    picture_folder,
    read_tables,
)
from compress.data.coco_keypoints import mirror_pairs, point_names, read_area, read_points
from compress.data.coco_shapes import polygons_of
from compress.data.options import Seed, Sides, checked_options
from deploy.processing.detection.rows import LEAST_VERTICES, NO_VERTEX, ObjectKind
from profiles.errors import UserError, one_line

MOST_PIXELS = 2**31
FIELDS: dict[ObjectKind, tuple[str, ...]] = {"boxes": (), "masks": ("segmentation",), "keypoints": ("keypoints",)}


@checked_options("data: coco")
def coco(
    *,
    path: str | Path,
    size: Sides,
    objects: Literal["boxes", "masks", "keypoints"] = "boxes",
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
    """Read images with boxes in COCO's format (Lin et al. 2014), as float32 (channels, height, width).

    ``path`` holds ``annotations/instances_NAME.json``, and the pictures of each in ``NAME`` or ``images/NAME``. The name
    of a part begins with ``train``, ``val`` or ``test``; train is needed, and what is missing is held out as
    ``compress.data.base.assign_splits`` says. Crowds are left out. The other options are those of
    ``compress.data.box_transforms.BoxPreprocessing``.

    Args:
        size: height and width of the input, or one number for both.
        objects: what targets hold beside boxes (``deploy.processing.detection.rows``): ``masks``, of COCO's polygons or run
            lengths, or ``keypoints``, of files ``person_keypoints_NAME.json``; the task detection then has the same.
        classes: names in the order of the labels; without, the categories of train in the order of their ids.

    Raises:
        UserError: what is missing, not such JSON, of an unknown class or not possible; all of it.
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
    start = KEYPOINTS if objects == "keypoints" else INSTANCES
    files = part_files(root, start)
    tables = read_tables(files, "bbox", *FIELDS[objects])
    reader = _Reader(root, tuple(classes) or category_names(tables["train"]), objects, start)
    if objects == "keypoints":
        names = point_names(tables["train"])
        reader.points = len(names)
        view = replace(view, pairs=tuple(mirror_pairs(names)))
        if not names:
            reader.faults.append(f"data: {files['train']}: its category names no keypoints")
    parts = {part: reader.part(files[part], table) for part, table in tables.items()}
    if reader.faults:
        raise UserError(*first_faults(reader.faults))
    notes = [f"{reader.crowds} boxes around crowds were left out"] if reader.crowds else []
    notes += [f"{reader.shapeless} objects without a shape were left out"] if reader.shapeless else []
    return box_splits(
        root,
        parts,
        view,
        classes=reader.classes,
        notes=notes,
        validation=validation,
        test=test,
        calibration=calibration,
        seed=seed,
    )


@final
class _Reader:
    """Turns tables into annotated pictures, and collects what is wrong with them."""

    def __init__(self, root: Path, classes: tuple[str, ...], objects: ObjectKind, start: str) -> None:
        self.classes, self._root, self._objects, self._start = classes, root, objects, start
        self.faults: list[str] = []
        self.crowds = self.shapeless = self.points = 0

    def part(self, file: Path, table: Mapping[str, Any]) -> list[AnnotatedImage]:
        """The annotated pictures of a part."""
        labels = category_labels(file, table, self.classes, self.faults)
        pictures = {image["id"]: image for image in table["images"]}
        rows: dict[Any, list[list[float]]] = {key: [] for key in pictures}
        more: dict[Any, list[tuple[Boxes, float]]] = {key: [] for key in pictures}
        for entry in table["annotations"]:
            image, category, corners = entry["image_id"], entry["category_id"], _corners(entry["bbox"])
            if entry.get("iscrowd"):
                self.crowds += 1
            elif image not in rows:
                self.faults.append(f"data: {file}: a box is of the picture {image}, which is not in images")
            elif category not in labels:
                self.faults.append(f"data: {file}: a box is of the category {category}, which is not in categories")
            elif corners is None:
                self.faults.append(f"data: {file}: bbox is [x, y, width, height]; given: {str(entry['bbox'])[:80]}")
            elif labels[category] >= 0:
                beside = self._beside(entry, pictures[image], file)
                if beside is not None:
                    rows[image].append([labels[category], *corners])
                    more[image].append(beside)
        folder = picture_folder(self._root, file, self._start)
        return [
            AnnotatedImage(
                file=str(picture_file(self._root, folder, str(image["file_name"]))),
                size=(int(image["width"]), int(image["height"])),
                boxes=as_boxes(rows[image["id"]]),
                **self._arrays(more[image["id"]]),
            )
            for image in table["images"]
        ]

    def _beside(self, entry: Mapping[str, Any], picture: Mapping[str, Any], file: Path) -> tuple[Boxes, float] | None:
        """Read an object's points and area; None, with a fault where it is one, of an object without."""
        try:
            if self._objects == "masks":
                found = polygons_of(entry["segmentation"], int(picture["height"]), int(picture["width"]))
                self.shapeless += not len(found)
                return (found, 0.0) if len(found) else None
            if self._objects == "keypoints":
                _, _, width, height = entry["bbox"]
                points = read_points(entry["keypoints"], self.points).astype(np.float32)
                return points, read_area(entry.get("area"), (0.0, 0.0, float(width), float(height)))
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            words = one_line(str(error), 160)
            self.faults.append(f"data: {file}: {self._objects} of {str(picture['file_name'])[:80]}: {words}")
            return None
        return np.zeros((0, 3), np.float32), 0.0

    def _arrays(self, beside: Sequence[tuple[Boxes, float]]) -> dict[str, Any]:
        """Return ``more`` and ``areas`` of a picture's objects."""
        if self._objects == "boxes":
            return {}
        most = self.points if self._objects == "keypoints" else max([LEAST_VERTICES, *(len(points) for points, _ in beside)])
        more = np.zeros((len(beside), most, 3), np.float32)
        more[..., 2] = NO_VERTEX if self._objects == "masks" else 0
        for row, (points, _) in zip(more, beside, strict=True):
            row[: len(points)] = points
        areas = np.array([area for _, area in beside], np.float32)
        return {"more": more, "areas": areas if self._objects == "keypoints" else None}


def _corners(box: Any) -> list[float] | None:
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(value, int | float) and abs(value) < MOST_PIXELS for value in box)
    ):
        return None
    x, y, wide, high = box
    return [x, y, x + wide, y + high]
