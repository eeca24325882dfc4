"""Data of one's own: CIFAR-10 stored as sheets of tiles.

A recipe names the callable below, with this folder on PYTHONPATH:

    [task]
    data = { use = "cifar_sheets:splits", path = "..." }

Each sheet is a lossless WebP of 1280x800 pixels: 25 rows of 40 tiles of 32x32, 1000 images. ``train_labels.npy`` and
``test_labels.npy`` hold a row of 1000 labels for each sheet (``train_00.webp``, ``train_01.webp``, ...), uint8.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data import Splits
from compress.data.base import array_splits, assign_splits, split_indices
from compress.data.transforms import Normalise
from profiles.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NORMALISE = Normalise(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
ROWS, COLUMNS, SIDE = 25, 40, 32

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def splits(
    *,
    path: str,
    seed: int = 0,
    validation: int = 5000,
    calibration: int = 512,
    held_out_of: Literal["train", "test"] = "train",
    most: int = 0,
) -> Splits:
    """Validation is held out by ``seed``, calibration drawn from train; training is augmented.

    Args:
        most: images of the training part that are used, drawn by ``seed``; 0 for all.
        held_out_of: ``test`` for a teacher whose checkpoint has seen every image of train: on those it tells nothing.
    """
    folder = Path(path).expanduser()
    missing = [name for name in ("train_labels.npy", "test_labels.npy") if not (folder / name).is_file()]
    if missing:
        raise UserError(f"data: {folder} has no {' and no '.join(missing)}; give the folder of the sheets")
    parts = {"train": _part(folder, "train"), "test": _part(folder, "test")}
    if most:
        images, labels = parts["train"]
        drawn = np.sort(np.random.default_rng(seed).permutation(len(labels))[:most])
        parts["train"] = images[drawn], labels[drawn]
    if held_out_of == "test":
        images, labels = parts["test"]
        first, rest = split_indices(len(labels), (validation / len(labels),), seed)
        parts |= {"validation": (images[first], labels[first]), "test": (images[rest], labels[rest])}
    counts = {name: len(labels) for name, (_, labels) in parts.items()}
    chosen = assign_splits(counts, validation=validation, calibration=calibration, seed=seed)
    return array_splits(parts, chosen, classes=CLASSES, normalise=NORMALISE, shift=4, mirror=True)


def _part(folder: Path, name: str) -> Part:
    """Images (N, 3, 32, 32) and labels (N,) of all sheets of that name."""
    labels = np.load(folder / f"{name}_labels.npy", allow_pickle=False)
    files = [folder / f"{name}_{number:02d}.webp" for number in range(len(labels))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"data: {folder} has labels for {len(files)} sheets of {name} and lacks {', '.join(missing)}")
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock
        images = np.concatenate(list(pool.map(_tiles, files)))
    return images, labels.reshape(-1).astype(np.int64)


def _tiles(file: Path) -> npt.NDArray[np.uint8]:
    """The images of a sheet, row by row: (1000, 3, 32, 32)."""
    with Image.open(file) as sheet:
        if sheet.size != (COLUMNS * SIDE, ROWS * SIDE):
            raise UserError(f"data: {file} is of {sheet.size} pixels; a sheet is of {(COLUMNS * SIDE, ROWS * SIDE)}")
        pixels = np.asarray(sheet.convert("RGB"))
    return pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
