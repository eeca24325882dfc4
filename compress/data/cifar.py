"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the official files, Python or binary.

The official Python files are pickles, and come from mirrors: they are read as data (``compress.data.pickle_reader``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from compress.data.base import Splits, array_splits, assign_splits
from compress.data.options import Count, Seed, checked_options
from compress.data.pickle_reader import PickledArray, read_pickled
from compress.data.transforms import Bytes, Statistics, make_normalise
from profiles.errors import UserError, one_line

Labels = npt.NDArray[np.int64]
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32

STATISTICS_10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
STATISTICS_100: Statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES_100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()  # noqa: SIM905  # a hundred lines otherwise
)


@final
@dataclass(frozen=True, kw_only=True)
class _Edition:
    """One of the two data sets, as its files are named and laid out.

    Attributes:
        train, test: names of the Python files; the binary ones are called the same, with .bin.
        folders: that the archives unpack into, Python and binary.
        key: of the labels in a Python file.
        label_bytes: that a row of a binary file begins with; the last of them is the label.
    """

    train: Sequence[str]
    test: Sequence[str]
    folders: tuple[str, str]
    key: bytes
    label_bytes: int
    classes: tuple[str, ...]


CIFAR_10 = _Edition(
    train=[f"data_batch_{number}" for number in range(1, 6)],
    test=["test_batch"],
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    key=b"labels",
    label_bytes=1,
    classes=CLASSES_10,
)
CIFAR_100 = _Edition(
    train=["train"],
    test=["test"],
    folders=("cifar-100-python", "cifar-100-binary"),
    key=b"fine_labels",
    label_bytes=2,
    classes=CLASSES_100,
)


@checked_options("data: cifar10")
def cifar10(
    *,
    path: str | Path,
    seed: Seed = 0,
    validation: float = 5000,
    calibration: int = 512,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    shift: Count = 4,
    mirror: bool = True,
) -> Splits:
    """Read CIFAR-10, 60,000 images (3, 32, 32) of 10 classes, from a folder with the official files.

    Test is the official test set. Validation is held out from the official training set by ``seed`` (a share below 1, or
    a number of images), calibration is drawn from what is left of it. Training images are shifted and mirrored.
    Mean and deviation are those of the training images, unless given.

    Raises:
        UserError: files are missing, damaged, or hold what a CIFAR file does not.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=STATISTICS_10)
    parts = _parts(CIFAR_10, Path(path).expanduser())
    counts = {part: len(labels) for part, (_, labels) in parts.items()}
    chosen = assign_splits(counts, validation=validation, calibration=calibration, seed=seed, labels=parts["train"][1])
    return array_splits(parts, chosen, classes=CLASSES_10, normalise=normalise, shift=shift, mirror=mirror)


@checked_options("data: cifar100")
def cifar100(
    *,
    path: str | Path,
    seed: Seed = 0,
    validation: float = 5000,
    calibration: int = 512,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    shift: Count = 4,
    mirror: bool = True,
) -> Splits:
    """Read CIFAR-100, 60,000 images of 100 classes (the fine labels), otherwise as ``cifar10``."""
    normalise = make_normalise(mean, deviation, order, scale, usual=STATISTICS_100)
    parts = _parts(CIFAR_100, Path(path).expanduser())
    counts = {part: len(labels) for part, (_, labels) in parts.items()}
    chosen = assign_splits(counts, validation=validation, calibration=calibration, seed=seed, labels=parts["train"][1])
    return array_splits(parts, chosen, classes=CLASSES_100, normalise=normalise, shift=shift, mirror=mirror)


def _parts(edition: _Edition, path: Path) -> dict[str, tuple[Bytes, Labels]]:
    read, train, test = _found(edition, path)
    return {"train": _read(train, edition, read), "test": _read(test, edition, read)}


Reader = Callable[[Path, _Edition], tuple[Bytes, Labels]]


def _found(edition: _Edition, path: Path) -> tuple[Reader, list[Path], list[Path]]:
    """How to read the files, those of train and those of test."""
    missing: dict[str, list[str]] = {}
    for kind, suffix, folder, read in (
        ("Python", "", edition.folders[0], _read_python),
        ("binary", ".bin", edition.folders[1], _read_binary),
    ):
        for place in (path, path / folder):
            train, test = ([place / f"{name}{suffix}" for name in names] for names in (edition.train, edition.test))
            absent = [file.name for file in (*train, *test) if not file.is_file()]
            if not absent:
                return read, train, test
            if kind not in missing or len(absent) < len(missing[kind]):
                missing[kind] = absent
    looked = "; ".join(f"{kind} format: no {', '.join(names)}" for kind, names in missing.items())
    where = " or ".join(edition.folders)
    remedy = f"give the folder that holds the official files, or its {where}"
    raise UserError(f"data: {path} {'is not a folder' if not path.is_dir() else 'lacks files'}: {looked}; {remedy}")


def _read(files: Sequence[Path], edition: _Edition, read: Reader) -> tuple[Bytes, Labels]:
    """Images (N, 3, 32, 32) and labels of all the files; or what is wrong with each of them."""
    faults: list[str] = []
    images, labels = [], []
    for file in files:
        try:
            some, theirs = read(file, edition)
        except UserError as error:
            faults += error.faults
            continue
        images.append(some.reshape(-1, *SHAPE))
        labels.append(theirs)
        if theirs.max() >= len(edition.classes):
            faults.append(f"data: {file} has the label {theirs.max()}; allowed: 0 to {len(edition.classes) - 1}")
    if faults:
        raise UserError(*faults)
    return np.concatenate(images), np.concatenate(labels)


def _read_binary(file: Path, edition: _Edition) -> tuple[Bytes, Labels]:
    row, size_bytes = edition.label_bytes + PIXELS, file.stat().st_size
    if size_bytes == 0 or size_bytes % row:
        raise UserError(f"data: {file} has {size_bytes} bytes; rows of {row} bytes are expected; download it again")
    rows = np.fromfile(file, np.uint8).reshape(-1, row)
    return rows[:, edition.label_bytes :], rows[:, edition.label_bytes - 1].astype(np.int64)


def _read_python(file: Path, edition: _Edition) -> tuple[Bytes, Labels]:
    try:
        held = read_pickled(file.read_bytes())
    except UserError as error:
        raise UserError(*(f"data: {file}: {fault}" for fault in error.faults)) from None
    except Exception as error:  # of a damaged pickle anything may come
        raise UserError(f"data: {file} is not a batch of CIFAR ({one_line(str(error), 200)}); download it again") from error
    images = held.get(b"data") if isinstance(held, Mapping) else None
    labels = held.get(edition.key) if isinstance(held, Mapping) else None
    if not isinstance(images, PickledArray) or not isinstance(labels, list):
        raise UserError(f"data: {file} has no {edition.key.decode()!r} beside 'data'; is it another edition of CIFAR?")
    if not all(isinstance(label, int) and 0 <= label < 2**31 for label in labels):
        raise UserError(f"data: {file} has labels that are not numbers from 0 on")
    held_images = images.array
    if held_images is None or held_images.shape != (len(labels), PIXELS) or not labels:
        given = None if held_images is None else held_images.shape
        raise UserError(f"data: {file} has images of shape {given}; expected: {(len(labels), PIXELS)}, a row a label")
    return held_images, np.array(labels, np.int64)
