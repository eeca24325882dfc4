"""What a folder holds: the data source that reads it, the task, the classes, the size of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from compress.data import DATA, Splits
from compress.data.decoding import UNREADABLE, Header, is_image, read_header, read_text, reason
from compress.data.image_folders import FOLDERS
from compress.recipe.parse import instantiate
from compress.recipe.spec import Use
from profiles.errors import UserError, unknown

LOOKED_AT, PER_FOLDER = 64, 32
"""Images whose size is read, in all and of one folder."""
SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640)
LARGEST_GUESS_PX = {"classification": 224, "detection": 320, "segmentation": 320}
SMALL_PX = 64
"""Below it images of one size keep it: a network of 28 x 28 digits or 24 x 24 icons was trained at no other."""
MULTIPLE_PX = 32
"""Sides of inputs of detectors and segmenters are multiples of it, as their coarsest maps are of one cell for so many."""
MOST_YAML_BYTES = 1 << 20
NAMES_FILES = ("classes.txt", "obj.names", "coco.names", "labels.txt", "names.txt")
SIZED = ("images", "huggingface", "voc", "coco", "yolo", "masks", "coco_masks")


@final
@dataclass(frozen=True, kw_only=True)
class DataGuess:
    """A data set, and how it is read.

    Attributes:
        use: a name of ``DATA`` or a callable, with its arguments but the path.
        why: what each guess rests on, by what was guessed.
    """

    use: str
    path: Path | None
    task: str
    arguments: Mapping[str, Any]
    splits: Splits
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.splits.classes

    def read(self, **more: Any) -> Splits:
        """Read it with further arguments."""
        splits: Splits = instantiate(_spec(self.use, self.path, {**self.arguments, **more}), DATA, "data")
        return splits


def guess_data(given: str, size: int | None, size_of_weights: int | Sequence[int] | None) -> DataGuess:
    """Find out how a folder, a file or a named source is read.

    Args:
        given: a path, a name of ``DATA`` such as "digits", or ``module:callable``.
        size: side of the input in pixels that was asked for.
        size_of_weights: that the model's published weights were trained at.

    Raises:
        UserError: it is nothing that a source reads, with what each of them wants.
    """
    path = Path(given).expanduser()
    if not path.exists():
        if given not in DATA and ":" not in given:
            raise UserError(f"--data {given}: no such folder or file; nor is it a source: {unknown('source', given, DATA)}")
        return _read(given, None, "", {}, {"data": "as given"})
    use, task, why = _layout(path)
    arguments: dict[str, Any] = {}
    told = {"data": why}
    if use in SIZED:
        arguments["size"], told["size"] = _size(path, task, size, size_of_weights)
    elif size is not None:
        raise UserError(f"--size {size}: {use} has one size of its own; leave it out")
    if use == "yolo":
        arguments |= _yolo_names(path)
    if use == "masks" and not (path / "SegmentationClass").is_dir():
        arguments["classes"], told["classes"] = _mask_classes(path)
    if use == "images" and (left := _left_out(path)):
        told["left out"] = left
    return _read(use, path, task, arguments, told)


def _read(use: str, path: Path | None, task: str, arguments: Mapping[str, Any], why: Mapping[str, str]) -> DataGuess:
    splits: Splits = instantiate(_spec(use, path, arguments), DATA, "data")
    return DataGuess(use=use, path=path, task=task or _task_of(splits), arguments=arguments, splits=splits, why=why)


def _task_of(splits: Splits) -> str:
    """Tell the task of a source of one's own by its targets: boxes, a label for each pixel, or one for each sample."""
    targets = splits.train.load(np.arange(min(2, len(splits.train)))).targets
    if targets.ndim == 3 and targets.shape[-1] == 5 and targets.dtype.kind == "f":
        return "detection"
    return "segmentation" if targets.ndim > 1 else "classification"


def _spec(use: str, path: Path | None, arguments: Mapping[str, Any]) -> Use:
    located = {} if path is None else {"name" if use == "huggingface" else "path": str(path.resolve())}
    return Use(use=use, arguments={**located, **arguments})


def _layout(path: Path) -> tuple[str, str, str]:
    """Return the source that reads what lies at ``path``, the task, and why."""
    for use, (task, is_so, why) in LAYOUTS.items():
        if is_so(path):
            return use, task, why
    wanted = "; ".join(f"{use}: {why}" for use, (_, _, why) in LAYOUTS.items())
    raise UserError(f"--data {path}: nothing in it tells how it is read. {wanted}; or a source of your own, module:callable")


def _has(path: Path, *names: str) -> bool:
    return any((path / name).exists() for name in names)


def _beside(path: Path, images: str, others: str) -> list[Path]:
    """List the folders of annotations beside images, of either order of part and kind."""
    if not path.is_dir():
        return []
    parts = [path / others] + [path / part / others for names in FOLDERS.values() for part in (*names, "valid")]
    found = [each for each in parts if each.is_dir() and (each.parent / images).is_dir()]
    return [each for each in found for each in (each, *(p for p in each.iterdir() if p.is_dir()))]


def _is_yolo(path: Path) -> bool:
    return any(file.suffix == ".txt" for folder in _beside(path, "images", "labels") for file in _some(folder))


def _is_masks(path: Path) -> bool:
    return any(
        is_image(file.name)
        for kind in ("masks", "labels", "mask")
        for folder in _beside(path, "images", kind)
        for file in _some(folder)
    )


def _some(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry, _ in zip(entries, range(LOOKED_AT), strict=False) if entry.is_file()]


def _is_cifar(path: Path, *names: str) -> bool:
    return path.is_dir() and _has(path, *names)


def _is_images(path: Path) -> bool:
    root = path / "train" if (path / "train").is_dir() else path
    return root.is_dir() and any(
        any(is_image(file.name) for file in _some(folder)) for folder in sorted(root.iterdir()) if folder.is_dir()
    )


Is = Callable[[Path], bool]
LAYOUTS: dict[str, tuple[str, Is, str]] = {
    "npz": ("classification", lambda p: p.suffix == ".npz", "an .npz file of images and labels"),
    "voc": ("detection", lambda p: _has(p, "JPEGImages") and _has(p, "Annotations"), "JPEGImages and Annotations, as VOC"),
    "coco": (
        "detection",
        lambda p: p.is_dir() and any((p / "annotations").glob("instances_*.json")),
        "annotations/instances_*.json, as COCO",
    ),
    "yolo": ("detection", _is_yolo, "images and labels with a .txt of boxes for each image, as YOLO"),
    "masks": (
        "segmentation",
        lambda p: _is_masks(p) or (_has(p, "JPEGImages") and _has(p, "SegmentationClass")),
        "images and masks, an image of labels for each image",
    ),
    "cifar10": (
        "classification",
        lambda p: _is_cifar(p, "data_batch_1", "data_batch_1.bin", "cifar-10-batches-py", "cifar-10-batches-bin"),
        "the official files of CIFAR-10",
    ),
    "cifar100": (
        "classification",
        lambda p: _is_cifar(p, "cifar-100-python", "cifar-100-binary") or (_has(p, "meta") and (p / "train").is_file()),
        "the official files of CIFAR-100",
    ),
    "huggingface": (
        "classification",
        lambda p: _has(p, "dataset_dict.json", "state.json"),
        "a data set that save_to_disk wrote",
    ),
    "images": ("classification", _is_images, "a folder of images for each class, perhaps under train and val"),
}
"""How each source is told, in order: its task, whether a path is of its kind, and what that rests on."""


def _size(path: Path, task: str, asked: int | None, of_weights: int | Sequence[int] | None) -> tuple[int | list[int], str]:
    """Return the input's size, and why."""
    if asked is not None:
        return asked, "as asked"
    height, width, count, is_one = _typical(path)
    most = LARGEST_GUESS_PX[task]
    if task == "classification":
        if of_weights is not None:
            side = list(of_weights) if not isinstance(of_weights, int) else of_weights
            return side, "what the weights were trained at"
        if is_one and height == width < SMALL_PX:
            return height, f"the images are all {width} x {height} (of {count} looked at)"
        short = min(height, width)
        side = max([each for each in SIZES if each <= min(short * 1.15, most)] or [SIZES[0]])
        return side, f"the images are about {width} x {height} (of {count} looked at)"
    factor = min(1.0, most / max(height, width))
    sides = [max(MULTIPLE_PX, MULTIPLE_PX * round(side * factor / MULTIPLE_PX)) for side in (height, width)]
    return sides, f"the images are about {width} x {height} (of {count} looked at), in multiples of {MULTIPLE_PX}"


def _typical(path: Path) -> tuple[int, int, int, bool]:
    """Return the median height and width of images under ``path``, of how many, and whether all have one size."""
    files: list[Path] = []
    for place, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        inside = [Path(place, name) for name in sorted(names) if is_image(name)]
        files += inside[:: max(1, len(inside) // PER_FOLDER)][:PER_FOLDER]
        if len(files) >= LOOKED_AT:
            break
    heads = [head for head in map(read_header, files[:LOOKED_AT]) if isinstance(head, Header)]
    if not heads:
        raise UserError(f"--data {path}: none of its images can be opened")
    widths, heights = zip(*[head.shown for head in heads], strict=True)
    is_one = len({*zip(heights, widths, strict=True)}) == 1
    return int(np.median(heights)), int(np.median(widths)), len(heads), is_one


def _yolo_names(path: Path) -> dict[str, Any]:
    """Find the names of the classes of a data set in YOLO's layout: in a .yaml file, or a file with a name a row."""
    for name in NAMES_FILES:
        if (path / name).is_file():
            return {"names": name}
    for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        if names := _names_in(file):
            return {"classes": names}
    raise UserError(f"--data {path}: no names of the classes; put a file {NAMES_FILES[0]} with a name a row there")


def _names_in(file: Path) -> list[str]:
    """Return the names of classes in a .yaml file, a list or a table by number; empty where there are none."""
    import yaml  # type: ignore[import-untyped]  # comes with accelerate

    if file.stat().st_size > MOST_YAML_BYTES:
        return []
    try:
        listed = yaml.load(read_text(file), Loader=_plain_loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # of a date or a number that is none: ValueError
        return []
    listed = listed.get("names") if isinstance(listed, dict) else None
    if isinstance(listed, dict) and all(isinstance(key, int) for key in listed):
        listed = [listed[key] for key in sorted(listed)]
    if not isinstance(listed, list) or not all(isinstance(each, str | int | float) for each in listed):
        return []
    return [str(each) for each in listed]


def _plain_loader() -> Any:
    """Return a loader of YAML that follows no aliases: a few of them within one another stand for gigabytes."""
    import yaml

    class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

    return PlainLoader


def _mask_classes(path: Path) -> tuple[list[str], str]:
    """Count the classes of masks whose values are 0, 1, 2 and so on, by looking at some."""
    from PIL import Image

    folders = [f for kind in ("masks", "labels", "mask") for f in _beside(path, "images", kind)]
    files = [file for folder in folders for file in _some(folder) if is_image(file.name)][:LOOKED_AT]
    seen: set[int] = set()
    for file in files:
        try:
            with Image.open(file) as image:
                seen |= set(np.unique(np.asarray(image)).tolist())
        except UNREADABLE as error:
            raise UserError(f"--data {file}: cannot be opened ({reason(error, file)}); remove or replace it") from None
    values = sorted(seen - {255})
    if not values or values[-1] > 254 or values[-1] != len(values) - 1:
        fact = f"--data {path}: the masks have the values {values[:12]}"
        raise UserError(f"{fact}; write a recipe with [task.data] values = [...], one for each class")
    return [f"class {value}" for value in values], f"the values in {len(files)} masks are 0 to {values[-1]}; give them names"


def _left_out(path: Path) -> str:
    """Word which folders beside train are no part by their name."""
    if not (path / "train").is_dir():
        return ""
    known = {name for names in FOLDERS.values() for name in names}
    others = sorted(f.name for f in path.iterdir() if f.is_dir() and f.name not in known and not f.name.startswith("."))
    return f"{', '.join(others)}: no part by name; call it val or test to have it used" if others else ""
