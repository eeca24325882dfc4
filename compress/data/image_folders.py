"""Where the images of a folder lie: parts, classes, names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from compress.data.decoding import SUFFIXES, is_image, suffix_of
from profiles.errors import UserError

FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""Names of the folders that a part may come in."""


@final
@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Images of each part as (name under the root, label), the classes, and the suffixes of the other files."""

    parts: Mapping[str, Sequence[tuple[str, int]]]
    classes: tuple[str, ...]
    others: Counter[str]


def find_images(root: Path, labels: str) -> FoundImages:
    """Find the images of each part, in folders of classes or (``labels = "none"``) anywhere.

    Raises:
        UserError: folders that are missing, empty or not in train; all of them.
    """
    if labels not in ("folders", "none"):
        raise UserError(f'data: labels is "folders" or "none"; given: {labels!r}')
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give one that holds a folder of pictures for each class")
    folders = {part: [root / name for name in names if (root / name).is_dir()] for part, names in FOLDERS.items()}
    present = {part: there[0] for part, there in folders.items() if there}
    if present and "train" not in present:
        given = ", ".join(folder.name for folder in present.values())
        raise UserError(f"data: {root} has {given} and no train; name the folder of the training pictures 'train'")
    present = present or {"train": root}
    if labels == "none":
        return _unlabelled(root, present)
    return _labelled(root, present)


def _unlabelled(root: Path, present: Mapping[str, Path]) -> FoundImages:
    others: Counter[str] = Counter()
    parts = {part: [(name, -1) for name in _pictures(folder, root, others)] for part, folder in present.items()}
    empty = [_nothing(present[part]) for part, pictures in parts.items() if not pictures]
    if empty:
        raise UserError(*empty)
    return FoundImages(parts=parts, classes=(), others=others)


def _labelled(root: Path, present: Mapping[str, Path]) -> FoundImages:
    classes = tuple(_classes(present["train"]))
    faults: list[str] = []
    others: Counter[str] = Counter()
    if not classes:
        words = 'a folder of pictures for each class is expected; for pictures without labels say labels = "none"'
        faults.append(f"data: {present['train']} holds no folders; {words}")
    parts: dict[str, list[tuple[str, int]]] = {}
    for part, folder in present.items():
        parts[part] = []
        for name in _classes(folder):
            if name not in classes:
                faults.append(f"data: {folder / name} is a class that {present['train']} has not")
                continue
            pictures = _pictures(folder / name, root, others)
            if not pictures:
                faults.append(_nothing(folder / name))
            parts[part] += [(picture, classes.index(name)) for picture in pictures]
    if faults:
        raise UserError(*faults)
    return FoundImages(parts=parts, classes=classes, others=others)


def _nothing(folder: Path) -> str:
    return f"data: {folder} holds no picture; known kinds: {', '.join(SUFFIXES)}; remove the folder or fill it"


def _classes(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def _pictures(folder: Path, root: Path, others: Counter[str]) -> list[str]:
    """List the names under ``root`` of the images anywhere under ``folder``, in order; other suffixes are counted."""
    images: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        under = os.path.relpath(place, root)
        images += [os.path.join(under, name) for name in names if is_image(name)]
        others.update(suffix_of(name) for name in names if not is_image(name) and not name.startswith("."))
    return sorted(images)
