"""COCO: a JSON file of images, categories and boxes for each part, and folders of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from compress.data.base import Splits
from compress.data.box_samples import AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.coco_files import (
    category_labels,
    category_names,
    part_files,
    picture_file,
    picture_folder,
    read_tables,
)
from compress.data.options import Seed, Sides, checked_options
from profiles.errors import UserError

MOST_PIXELS = 2**31


@checked_options("data: coco")
def coco(
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
    """Read images with boxes in COCO's format (Lin et al. 2014), as float32 (channels, height, width).

    ``path`` holds ``annotations/instances_NAME.json``, and the pictures of each in ``NAME`` or ``images/NAME``. The name
    of a part begins with ``train``, ``val`` or ``test``; train is needed, and what is missing is held out as
    ``compress.data.base.assign_splits`` says. Boxes around crowds are left out. The other options are those of
    ``compress.data.box_transforms.BoxPreprocessing``.

    Args:
        size: height and width of the input, or one number for both.
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
    files = part_files(root)
    tables = read_tables(files, "bbox")
    reader = _Reader(root, tuple(classes) or category_names(tables["train"]))
    parts = {part: reader.part(files[part], table) for part, table in tables.items()}
    if reader.faults:
        raise UserError(*first_faults(reader.faults))
    notes = [f"{reader.crowds} boxes around crowds were left out"] if reader.crowds else []
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

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.classes, self._root = classes, root
        self.faults: list[str] = []
        self.crowds = 0

    def part(self, file: Path, table: Mapping[str, Any]) -> list[AnnotatedImage]:
        """The annotated pictures of a part."""
        labels = category_labels(file, table, self.classes, self.faults)
        rows: dict[Any, list[list[float]]] = {image["id"]: [] for image in table["images"]}
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
                rows[image].append([labels[category], *corners])
        folder = picture_folder(self._root, file)
        return [
            AnnotatedImage(
                file=str(picture_file(self._root, folder, str(image["file_name"]))),
                size=(int(image["width"]), int(image["height"])),
                boxes=as_boxes(rows[image["id"]]),
            )
            for image in table["images"]
        ]


def _corners(box: Any) -> list[float] | None:
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(value, int | float) and abs(value) < MOST_PIXELS for value in box)
    ):
        return None
    x, y, wide, high = box
    return [x, y, x + wide, y + high]
