"""COCO's keypoints: figures with a point for each joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.base import Splits, assign_splits
from compress.data.box_samples import first_faults
from compress.data.box_transforms import USUAL
from compress.data.coco_files import KEYPOINTS, part_files, picture_file, picture_folder, read_tables
from compress.data.keypoint_samples import Figure, FigurePreprocessing, KeypointSamples
from compress.data.options import Seed, Sides, as_sides, checked_options
from compress.data.transforms import make_normalise
from profiles.errors import UserError, one_line

SIDES = ("left", "right")
MOST_PIXELS, LEAST_SIDE_PX = 2**31, 1.0


@checked_options("data: coco_keypoints")
def coco_keypoints(
    *,
    path: str | Path,
    size: Sides,
    names: Sequence[str] = (),
    padding: float = 0.25,
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    mirror: bool = True,
    turn: float = 30.0,
    zoom: float = 0.25,
    move: float = 0.1,
    colour: float = 0.1,
) -> Splits:
    """Read figures with keypoints in COCO's format, each cut out by its box, as float32 (channels, height, width).

    ``path`` holds ``annotations/person_keypoints_NAME.json``; pictures and parts are as in ``compress.data.coco``. A
    sample is a figure with a labelled point; crowds are left out. Targets are (points + 1, 3), as
    ``compress.data.keypoint_samples.KeypointSamples`` has them. Points whose names differ in ``left`` and ``right`` change
    places in a mirror. The other options are those of ``FigurePreprocessing`` there.

    Args:
        size: height and width of the input, or one number for both.
        names: of the points; without, those of the first category of train.

    Raises:
        UserError: what is missing, not such JSON, or without visibilities; all of it.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=USUAL)
    view = FigurePreprocessing(
        normalise=normalise,
        size=as_sides(size),
        padding=padding,
        mirror=mirror,
        turn=turn,
        zoom=zoom,
        move=move,
        colour=colour,
    )
    root = Path(path).expanduser()
    files = part_files(root, KEYPOINTS)
    tables = read_tables(files, "keypoints", "bbox")
    points = tuple(names) or point_names(tables["train"])
    faults: list[str] = []
    if not points:
        faults.append(f"data: {files['train']}: its category names no keypoints; say names = [...]")
    counts = [0, 0]
    figures = {part: _figures(root, files[part], table, len(points), faults, counts) for part, table in tables.items()}
    if faults:
        raise UserError(*first_faults(faults))
    sizes = {part: len(found) for part, found in figures.items()}
    chosen = assign_splits(sizes, validation=validation, test=test, calibration=calibration, seed=seed)
    plain = replace(view, mirror=False, turn=0.0, zoom=0.0, move=0.0, colour=0.0)
    samples: dict[str, Any] = {
        name: KeypointSamples(
            root, [figures[part][i] for i in indices], view if name == "train" else plain, points, mirror_pairs(points)
        )
        for name, (part, indices) in chosen.items()
    }
    words = (f"{counts[0]} crowds were left out", f"{counts[1]} figures without a labelled point were left out")
    notes = tuple(text for text, count in zip(words, counts, strict=True) if count)
    return Splits(**samples, classes=points, preprocessing=view.as_json(), notes=notes)


def mirror_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of points that change places in a mirror, by their names."""
    other = {name: name.replace(*SIDES) for name in names if SIDES[0] in name}
    return [(names.index(name), names.index(right)) for name, right in other.items() if right in names]


def point_names(table: Mapping[str, Any]) -> tuple[str, ...]:
    found: Any = next((category["keypoints"] for category in table["categories"] if category.get("keypoints")), [])
    return tuple(str(name) for name in found) if isinstance(found, list) else ()


def _figures(
    root: Path, file: Path, table: Mapping[str, Any], count: int, faults: list[str], left_out: list[int]
) -> list[Figure]:
    """Read a part's figures; ``left_out`` counts crowds and figures without a labelled point."""
    folder = picture_folder(root, file, KEYPOINTS)
    pictures = {each["id"]: each for each in table["images"]}
    names = {key: str(picture_file(root, folder, str(each["file_name"]))) for key, each in pictures.items()}
    faults += [f"data: {root / name} is annotated and not there" for name in names.values() if not (root / name).is_file()]
    figures: list[Figure] = []
    for entry in table["annotations"]:
        image = entry["image_id"]
        if image not in pictures:
            faults.append(f"data: {file}: a figure is of the picture {image}, which is not in images")
            continue
        if entry.get("iscrowd"):
            left_out[0] += 1
            continue
        try:
            points, box = read_points(entry["keypoints"], count), _box(entry["bbox"])
            area = read_area(entry.get("area"), box)
        except (ValueError, TypeError) as error:
            faults.append(f"data: {file}: a figure of {pictures[image]['file_name']}: {one_line(str(error), 200)}")
            continue
        if not (points[:, 2] > 0).any():
            left_out[1] += 1
            continue
        size = int(pictures[image]["width"]), int(pictures[image]["height"])
        figures.append(Figure(file=names[image], size=size, box=box, area=area, points=points))
    return figures


def read_points(given: Any, count: int) -> Any:
    wanted = f"keypoints is x, y and visibility of each of {count} points, {3 * count} numbers"
    if not isinstance(given, list) or len(given) != 3 * count:
        held = f"{len(given)}, without visibilities?" if isinstance(given, list) else f"a {type(given).__name__}"
        raise ValueError(f"{wanted}; given: {held}")
    points = np.array(given, np.float64).reshape(count, 3)
    if not (np.abs(points) < MOST_PIXELS).all() or not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ValueError(f"{wanted}; a visibility is 0 (not labelled), 1 (hidden) or 2 (seen)")
    return points


def read_area(given: Any, box: tuple[float, float, float, float]) -> float:
    """Return a figure's area in square pixels; that of its box where it states none."""
    if not given:
        return box[2] * box[3]
    area = float(given)
    if not 0 < area < MOST_PIXELS**2:
        raise ValueError(f"area is above 0; given: {str(given)[:80]}")
    return area


def _box(given: Any) -> tuple[float, float, float, float]:
    if not isinstance(given, list) or len(given) != 4:
        raise ValueError(f"bbox is [x, y, width, height]; given: {str(given)[:80]}")
    x, y, width, height = (float(value) for value in given)
    if not max(abs(x), abs(y)) < MOST_PIXELS or not LEAST_SIDE_PX <= min(width, height) <= max(width, height) < MOST_PIXELS:
        words = f"bbox has a width and a height of {LEAST_SIDE_PX:g} pixel or more"
        raise ValueError(f"{words}; given: {str(given)[:80]}")
    return x, y, width, height
