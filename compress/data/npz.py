"""Arrays in a .npz file: images and labels, in one set or in ready splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.base import Splits, array_splits, assign_splits
from compress.data.options import Count, Seed, checked_options
from compress.data.transforms import make_normalise, statistics
from deploy.files.npz import ArraysError, array_names, read_arrays
from profiles.errors import UserError, one_line

PARTS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
LAYOUTS = ("auto", "nchw", "nhwc")
NONE = "none"
MOST_CLASSES = 100_000
"""Classes that are called by their numbers; ImageNet-21k has 21,841."""

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@checked_options("data: npz")
def npz(
    *,
    path: str | Path,
    images: str = "images",
    labels: str = "labels",
    classes: Sequence[str] = (),
    layout: str = "auto",
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    shift: Count = 0,
    mirror: bool = False,
) -> Splits:
    """Read images (N, H, W), (N, H, W, C) or (N, C, H, W) and labels (N,) or (N, 1) from a .npz file.

    ``images`` and ``labels`` name the arrays. Ready splits are called ``train_images`` or ``images_train``, the same for
    ``test`` and ``validation`` (or ``val``), and for labels; what is missing is held out from train as
    ``compress.data.base.assign_splits`` says. ``labels="none"`` stands for no labels (-1).

    Images of uint8 stay so in memory and are normalised when they are loaded; without ``mean`` and ``deviation`` those of
    the training images are taken. Float images are what the model takes, and are left alone. Arrays of
    objects are refused: numpy keeps them as pickles, which could run code.

    Args:
        classes: their names, in the order of the labels; without any they are called by their numbers.
        layout: "nchw", "nhwc", or "auto": the channels are where there are 1 or 3.

    Raises:
        UserError: the file or its arrays are not of that kind.
    """
    if layout not in LAYOUTS:
        raise UserError(f"data: layout is one of {', '.join(LAYOUTS)}; given: {layout!r}")
    stored = _read(Path(path).expanduser(), images, labels)
    parts = {part: _pair(f"data: {path}: {part}", pair, layout) for part, pair in stored.items()}
    counts = {part: len(numbers) for part, (_, numbers) in parts.items()}
    chosen = assign_splits(
        counts, validation=validation, test=test, calibration=calibration, seed=seed, labels=parts["train"][1]
    )
    pictures = parts["train"][0]
    normalise = None
    if pictures.dtype == np.uint8:
        measured = statistics(pictures[chosen["train"][1]])
        normalise = make_normalise(mean, deviation, order, scale, usual=measured)
    elif mean or deviation or order != "rgb" or scale != 1:
        words = "leave mean, deviation, order and scale out, or store uint8"
        raise UserError(f"data: {path}: float images are taken as they are; {words}")
    return array_splits(
        parts, chosen, classes=_classes(path, parts, tuple(classes)), normalise=normalise, shift=shift, mirror=mirror
    )


def _read(path: Path, images: str, labels: str) -> dict[str, Pair]:
    """Images and labels of each part as they are stored."""
    if not path.is_file():
        raise UserError(f"data: {path}: no such file; give a .npz of images and labels")
    try:
        names = _names(path, array_names(path), images, labels)
        wanted = {name for pair in names.values() for name in pair if name}
        held = read_arrays(path, wanted)
    except ArraysError as error:
        raise UserError(f"data: {path} cannot be read as a .npz of plain arrays: it {one_line(str(error), 300)}") from None
    except OSError as error:
        raise UserError(f"data: {path}: {error.strerror}") from None
    return {part: (held[ours], held[theirs] if theirs else _none(held[ours])) for part, (ours, theirs) in names.items()}


def _names(path: Path, held: Sequence[str], images: str, labels: str) -> dict[str, tuple[str, str]]:
    """What images and labels of each part are called; labels "" when there are to be none."""
    names: dict[str, tuple[str, str]] = {"train": (images, labels)} if images in held else {}
    for part, words in PARTS.items():
        for pattern in [form.format(word) for word in words for form in ("{}_{{}}", "{{}}_{}")]:
            if pattern.format(images) in held:
                names[part] = (pattern.format(images), pattern.format(labels))
    if labels == NONE:
        names = {part: (ours, "") for part, (ours, _) in names.items()}
    has = f"it has {', '.join(sorted(held))}; say which with images = and labels ="
    if "train" not in names:
        raise UserError(f"data: {path} has neither {images!r} nor 'train_{images}'; {has}")
    absent = [theirs for _, theirs in names.values() if theirs and theirs not in held]
    if absent:
        raise UserError(f'data: {path} has no {", ".join(map(repr, absent))}; {has}, or labels = "none"')
    return names


def _none(images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.full(len(images), -1, np.int64)


def _pair(where: str, pair: Pair, layout: str) -> Pair:
    """Images as (N, C, H, W), uint8 or float32, and labels as int64 of shape (N,)."""
    images, labels = pair
    faults: list[str] = []
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        faults.append(f"{where} images are uint8 or float; given: {images.dtype}")
    channels_last = layout == "nhwc" or (layout == "auto" and images.shape[1:2] not in ((1,), (3,)))
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and channels_last:
        images = np.moveaxis(images, -1, 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        words = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"
        faults.append(f"{where} images have a shape of {words}; given: {pair[0].shape} and layout {layout!r}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        labels.shape != (len(images),)
        or labels.dtype.kind not in "iu"
        or (labels.size and not -1 <= int(labels.min()) <= int(labels.max()) < 2**62)
    ):
        words = "one whole number an image, 0 or more (-1: none)"
        faults.append(f"{where} labels are {words}; given: {labels.dtype} of shape {pair[1].shape} for {len(images)} images")
    if faults:
        raise UserError(*faults)
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    return np.ascontiguousarray(images, kind), labels.astype(np.int64)


def _classes(path: str | Path, parts: Mapping[str, Pair], given: tuple[str, ...]) -> tuple[str, ...]:
    most = 1 + max(int(labels.max(initial=-1)) for _, labels in parts.values())
    if not given and most > MOST_CLASSES:
        words = f"without classes at most {MOST_CLASSES - 1:,} is taken; are they classes? give numbers from 0 on"
        raise UserError(f"data: {path} has labels up to {most - 1:,}; {words}")
    if given and len(given) < most:
        raise UserError(f"data: {path} has labels up to {most - 1}; given: {len(given)} classes; name one for each label")
    return given or tuple(str(label) for label in range(most))
