"""Files of a data set in COCO's format: a JSON file for each part, its pictures and its categories."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.data.decoding import is_inside
from compress.data.options import LONGEST_NAME_BYTES
from compress.data.yolo import PREFIXES
from profiles.errors import UserError, one_line, unknown

INSTANCES = "instances_"
KEYPOINTS = "person_keypoints_"

FREE = ("bbox", "segmentation", "keypoints")
"""Fields that are told with their picture."""


def part_files(root: Path, start: str = INSTANCES) -> dict[str, Path]:
    """Find the JSON file of each part under ``root``; its name begins with ``start`` and then the part's.

    Raises:
        UserError: none is for train, or two are for one part.
    """
    files: dict[str, Path] = {}
    for file in sorted((root / "annotations").glob(f"{start}*.json")):
        name = file.stem.removeprefix(start)
        part = next((part for prefix, part in PREFIXES.items() if name.startswith(prefix)), None)
        if part is not None and part in files:
            raise UserError(f"data: {files[part]} and {file} are both for {part}; leave one of them there")
        if part is not None:
            files[part] = file
    if "train" not in files:
        raise UserError(f"data: {root} has no annotations/{start}train*.json; give a folder laid out as COCO is")
    return files


def read_tables(files: Mapping[str, Path], *annotated: str) -> dict[str, dict[str, Any]]:
    """Read the JSON of each part, known to hold what is read of it.

    Args:
        annotated: the fields that every annotation has beside its picture and category.

    Raises:
        UserError: files that are no such JSON; all of them.
    """
    faults: list[str] = []
    tables = {part: _table(file, annotated, faults) for part, file in files.items()}
    if faults:
        raise UserError(*faults)
    return tables


def category_names(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a part's categories in the order of their ids."""
    return tuple(str(each["name"]) for each in sorted(table["categories"], key=lambda category: category["id"]))


def category_labels(file: Path, table: Mapping[str, Any], classes: Sequence[str], faults: list[str]) -> dict[Any, int]:
    """Return the label of each category by its id; -1, and a fault, for one that is no class."""
    labels: dict[Any, int] = {}
    for category in table["categories"]:
        name = str(category["name"])
        if name not in classes:
            faults.append(unknown("class", name, classes, f"data: {file}"))
        labels[category["id"]] = classes.index(name) if name in classes else -1
    return labels


def picture_folder(root: Path, file: Path, start: str = INSTANCES) -> Path:
    """Return where the pictures of a part are, under the data set's folder."""
    name = file.stem.removeprefix(start)
    return next((f for f in (Path(name), Path("images") / name) if (root / f).is_dir()), Path("images"))


def picture_file(root: Path, folder: Path, name: str) -> Path:
    """Find a part's picture under ``root``; its name may have backslashes, or begin with the folder that it is in.

    Of a name that leads elsewhere, as the machine that it was written on had it, the last part counts.
    """
    plain = Path(name.replace("\\", "/"))
    beside = folder / plain.name
    candidates = (folder / plain, plain, Path("images") / plain, beside) if is_inside(str(plain)) else (beside,)
    return next((each for each in candidates if os.path.isfile(root / each)), candidates[0])


def _table(file: Path, annotated: Sequence[str], faults: list[str]) -> dict[str, Any]:
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id", *annotated),
        "categories": ("id", "name"),
    }
    try:
        table = json.loads(file.read_text("utf-8"))
        if not isinstance(table, dict):
            raise ValueError(f"a {type(table).__name__} where a table of {', '.join(wanted)} belongs")
        for key, fields in wanted.items():
            if not isinstance(table[key], list) or not all(isinstance(entry, dict) for entry in table[key]):
                raise ValueError(f"{key} is a list of tables")
            for entry in table[key]:
                if missing := [field for field in fields if field not in entry]:
                    raise ValueError(f"an entry of {key} has no {' and no '.join(missing)}: {str(entry)[:80]}")
                if wrong := [field for field in fields if not _is_right(field, entry[field])]:
                    raise ValueError(f"an entry of {key} has a wrong {' and '.join(wrong)}: {str(entry)[:80]}")
    except KeyError as error:
        faults.append(f"data: {file} has no {error}; it holds {', '.join(wanted)}")
    except (ValueError, TypeError, RecursionError, OSError) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        faults.append(f"data: {file}: {one_line(str(error), 200)}")
    else:
        return dict(table)
    return {}


def _is_right(field: str, value: Any) -> bool:
    """Return whether a field is of its type: ids and sizes whole numbers within 64 bits, names text."""
    if field in FREE:
        return True
    if field in ("file_name", "name"):
        return isinstance(value, str) and "\0" not in value and len(value.encode(errors="replace")) <= LONGEST_NAME_BYTES
    if field in ("width", "height"):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)
