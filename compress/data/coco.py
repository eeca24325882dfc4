"""COCO: a JSON file of images, categories and boxes for each part, and folders of images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from compress.data.base import Splits
from compress.data.box_samples import AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.options import LONGEST_NAME_BYTES, Seed, Sides, checked_options
from compress.data.yolo import PREFIXES
from profiles.errors import UserError, one_line, unknown

INSTANCES = "instances_"
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
    files = _files(root)
    faults: list[str] = []
    tables = {part: _table(file, faults) for part, file in files.items()}
    if faults:
        raise UserError(*faults)
    named = sorted(tables["train"]["categories"], key=lambda category: category["id"])
    reader = _Reader(root, tuple(classes) or tuple(str(category["name"]) for category in named))
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


def _files(root: Path) -> dict[str, Path]:
    """The JSON file of each part."""
    files: dict[str, Path] = {}
    for file in sorted((root / "annotations").glob(f"{INSTANCES}*.json")):
        name = file.stem.removeprefix(INSTANCES)
        part = next((part for prefix, part in PREFIXES.items() if name.startswith(prefix)), None)
        if part is not None and part in files:
            raise UserError(f"data: {files[part]} and {file} are both for {part}; leave one of them there")
        if part is not None:
            files[part] = file
    if "train" not in files:
        raise UserError(f"data: {root} has no annotations/{INSTANCES}train*.json; give a folder laid out as COCO is")
    return files


def _table(file: Path, faults: list[str]) -> dict[str, Any]:
    """The JSON of a part, known to hold what is read of it; a fault is added to ``faults``."""
    try:
        table = json.loads(file.read_text("utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"a {type(table).__name__} where a table of {', '.join(FIELDS)} belongs")
        for key, fields in FIELDS.items():
            if not isinstance(table[key], list) or not all(isinstance(entry, dict) for entry in table[key]):
                raise ValueError(f"{key} is a list of tables")
            for entry in table[key]:
                if missing := [field for field in fields if field not in entry]:
                    raise ValueError(f"an entry of {key} has no {' and no '.join(missing)}: {str(entry)[:80]}")
                if wrong := [field for field in fields if not _is_right(field, entry[field])]:
                    raise ValueError(f"an entry of {key} has a wrong {' and '.join(wrong)}: {str(entry)[:80]}")
    except KeyError as error:
        faults.append(f"data: {file} has no {error}; it holds {', '.join(FIELDS)}")
    except (ValueError, TypeError, RecursionError, OSError) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        faults.append(f"data: {file}: {one_line(str(error), 200)}")
    else:
        return dict(table)
    return {}


FIELDS: Mapping[str, tuple[str, ...]] = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""What is read of a part's JSON."""


@final
class _Reader:
    """Turns tables into annotated pictures, and collects what is wrong with them."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        self.classes, self._root = classes, root
        self.faults: list[str] = []
        self.crowds = 0

    def part(self, file: Path, table: Mapping[str, Any]) -> list[AnnotatedImage]:
        """The annotated pictures of a part."""
        labels = self._labels(file, table)
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
        folder = self._folder(file)
        return [
            AnnotatedImage(
                file=str(self._file(folder, str(image["file_name"]))),
                size=(int(image["width"]), int(image["height"])),
                boxes=as_boxes(rows[image["id"]]),
            )
            for image in table["images"]
        ]

    def _file(self, folder: Path, name: str) -> Path:
        """Find a part's image; its name may have backslashes, or begin with the folder that it is in."""
        plain = Path(name.replace("\\", "/"))
        candidates = (folder / plain, plain, Path("images") / plain, folder / plain.name)
        return next((each for each in candidates if os.path.isfile(self._root / each)), folder / plain)

    def _labels(self, file: Path, table: Mapping[str, Any]) -> dict[Any, int]:
        """The label of each category; -1, and a fault, for one that is no class."""
        labels: dict[Any, int] = {}
        for category in table["categories"]:
            name = str(category["name"])
            if name not in self.classes:
                self.faults.append(unknown("class", name, self.classes, f"data: {file}"))
            labels[category["id"]] = self.classes.index(name) if name in self.classes else -1
        return labels

    def _folder(self, file: Path) -> Path:
        """Where the pictures of a part are, under the data set's folder."""
        name = file.stem.removeprefix(INSTANCES)
        return next((f for f in (Path(name), Path("images") / name) if (self._root / f).is_dir()), Path("images"))


def _is_right(field: str, value: Any) -> bool:
    """Return whether a field is of its type: ids and sizes whole numbers within 64 bits, names text."""
    if field == "bbox":
        return True  # told with its picture
    if field in ("file_name", "name"):
        return isinstance(value, str) and "\0" not in value and len(value.encode(errors="replace")) <= LONGEST_NAME_BYTES
    if field in ("width", "height"):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)


def _corners(box: Any) -> list[float] | None:
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(value, int | float) and abs(value) < MOST_PIXELS for value in box)
    ):
        return None
    x, y, wide, high = box
    return [x, y, x + wide, y + high]
