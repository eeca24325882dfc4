"""Samples that a user brings to a model that is there: a folder of pictures or a .npz file, prepared as the model's were.

What was done to a sample before the model saw it is stated by ``Splits.preprocessing``, and by a bundle's
preprocessing.json: size, crop and normalisation of pictures. Numbers in a .npz file are taken as the model takes them,
except for pictures of uint8, which are normalised.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.base import ArraySamples, NamedSamples, Samples
from compress.data.box_samples import AnnotatedImage, BoxSamples, ImageCache
from compress.data.box_transforms import BoxPreprocessing
from compress.data.decoding import SUFFIXES, is_image
from compress.data.images import FileImages, ImagePreprocessing, ImageSamples
from compress.data.options import as_sides
from compress.data.transforms import Normalise
from deploy.files.npz import ArraysError, read_arrays
from profiles.errors import UserError, one_line

LABELS = ("labels", "label", "targets", "y")
INPUTS = ("images", "inputs", "input", "x")
"""Names that arrays of a .npz file may have."""
PICTURE_KEYS = ("size", "mean", "deviation", "order")
UNLABELLED = -1


@final
@dataclass(frozen=True, kw_only=True)
class GivenSamples:
    """Samples that were given, and what is known of them.

    Attributes:
        names: of each sample: its file, or its number.
        labels: of each sample, places in the classes; None where there are none.
    """

    samples: Samples
    names: Sequence[str]
    labels: npt.NDArray[np.int64] | None = None


def open_given(given: Path, preprocessing: Mapping[str, Any], classes: Sequence[str], where: str) -> GivenSamples:
    """Open a folder of pictures or a .npz file.

    Pictures in folders of the names of ``classes`` have labels; others have none.

    Args:
        preprocessing: as ``Splits.preprocessing`` states it.
        classes: of the model, in the order of its labels.
        where: begins each fault.

    Raises:
        UserError: there is no such thing, it holds no samples, or how to prepare them is not stated.
    """
    if given.suffix == ".npz":
        return _arrays(given, preprocessing, classes, where)
    if not given.is_dir():
        raise UserError(f"{where}: {given}: no such folder or .npz file")
    return _pictures(given, preprocessing, classes, where)


def picture_view(preprocessing: Mapping[str, Any], where: str) -> ImagePreprocessing | BoxPreprocessing:
    """Return how pictures are prepared: cropped, or for detectors fitted whole.

    Raises:
        UserError: it is not stated, or not possible.
    """
    if missing := [key for key in PICTURE_KEYS if key not in preprocessing]:
        words = "give a .npz of inputs as the model takes them, or a recipe"
        raise UserError(f"{where}: how the model's pictures are prepared is not stated ({', '.join(missing)}); {words}")
    kind, _, averaged = str(preprocessing.get("interpolation", "bilinear, antialiased")).partition(", ")
    try:
        normalise, size = _normalise(preprocessing), as_sides(preprocessing["size"])
        if "resize" in preprocessing:
            resize = str(preprocessing["resize"])
            return BoxPreprocessing(normalise=normalise, size=size, resize=resize, antialias=bool(averaged))
        return ImagePreprocessing(
            normalise=normalise,
            size=size,
            short_side=int(preprocessing.get("short_side", 0)),
            crop=str(preprocessing.get("crop", "centre")),
            interpolation=kind,
            augment="none",
            mirror=False,
        )
    except UserError as error:
        raise UserError(*(f"{where}: {fault}" for fault in error.faults)) from None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: how pictures are prepared cannot be read ({one_line(str(error), 100)})") from None


def _normalise(preprocessing: Mapping[str, Any]) -> Normalise:
    order = str(preprocessing["order"])
    return Normalise(
        mean=tuple(float(value) for value in preprocessing["mean"]),
        deviation=tuple(float(value) for value in preprocessing["deviation"]),
        order="rgb" if order == "grey" else order,
        scale=float(preprocessing.get("scale", 1.0)),
    )


def _pictures(root: Path, preprocessing: Mapping[str, Any], classes: Sequence[str], where: str) -> GivenSamples:
    view = picture_view(preprocessing, where)
    names = sorted(
        os.path.relpath(os.path.join(place, name), root)
        for place, folders, files in os.walk(root)
        for name in files
        if is_image(name) and not any(part.startswith(".") for part in Path(os.path.relpath(place, root)).parts[1:])
    )
    if not names:
        raise UserError(f"{where}: {root} holds no picture; known kinds: {', '.join(SUFFIXES)}")
    if isinstance(view, BoxPreprocessing):
        drawn = [AnnotatedImage(file=name, size=(1, 1), boxes=np.zeros((0, 5), np.float32)) for name in names]
        fitted = BoxSamples(ImageCache(root, drawn, view), np.arange(len(names)), view, tuple(classes))
        return GivenSamples(samples=fitted, names=names)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(Path(name).parts[0], UNLABELLED) for name in names], np.int64)
    samples = ImageSamples(FileImages(root, names), np.arange(len(names)), labels, view)
    return GivenSamples(samples=samples, names=names, labels=labels if (labels >= 0).all() else None)


def _arrays(path: Path, preprocessing: Mapping[str, Any], classes: Sequence[str], where: str) -> GivenSamples:
    try:
        held = read_arrays(path)
    except ArraysError as error:
        raise UserError(
            f"{where}: {path} cannot be read as a .npz of plain arrays: it {one_line(str(error), 200)}"
        ) from None
    except OSError as error:
        raise UserError(f"{where}: {path}: {error.strerror}") from None
    name = next((name for name in LABELS if name in held), None)
    labels = None if name is None else _labels(held.pop(name), classes, f"{where}: {path}: {name}")
    if not held or (lengths := {len(array) if array.ndim else 0 for array in held.values()}) == {0}:
        raise UserError(f"{where}: {path} holds no samples; arrays (samples, ...) are needed, such as {INPUTS[0]!r}")
    if len(lengths | ({len(labels)} if labels is not None else set())) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in held.items())
        raise UserError(
            f"{where}: {path}: arrays of different lengths: {shapes}, labels {None if labels is None else len(labels)}"
        )
    (count,) = lengths
    targets = np.full(count, UNLABELLED, np.int64) if labels is None else labels
    if len(held) == 1 or (only := [name for name in INPUTS if name in held]):
        single = next(iter(held.values())) if len(held) == 1 else held[only[0]]
        samples: Samples = _single(single, targets, preprocessing, f"{where}: {path}")
    else:
        samples = NamedSamples(held, targets)
    return GivenSamples(samples=samples, names=[str(number) for number in range(count)], labels=labels)


def _single(
    array: npt.NDArray[Any], targets: npt.NDArray[np.int64], preprocessing: Mapping[str, Any], where: str
) -> Samples:
    if array.dtype.kind == "f":
        return ArraySamples(array.astype(np.float32, copy=False), targets)
    if array.dtype != np.uint8:
        raise UserError(f"{where}: inputs are floats as the model takes them, or pictures of uint8; given: {array.dtype}")
    if missing := [key for key in ("mean", "deviation", "order") if key not in preprocessing]:
        words = "give floats as the model takes them"
        raise UserError(f"{where}: how pictures of uint8 are normalised is not stated ({', '.join(missing)}); {words}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)
    try:
        return ArraySamples(np.ascontiguousarray(array), targets, normalise=_normalise(preprocessing))
    except UserError as error:
        raise UserError(*(f"{where}: {fault}" for fault in error.faults)) from None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: how pictures are normalised cannot be read ({one_line(str(error), 100)})") from None


def _labels(array: npt.NDArray[Any], classes: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    most = len(classes) - 1 if classes else np.iinfo(np.int64).max
    if flat.ndim != 1 or flat.dtype.kind not in "iu" or (len(flat) and not 0 <= flat.min() <= flat.max() <= most):
        allowed = f"0 to {most}, one a sample" if classes else "whole numbers from 0 on, one a sample"
        raise UserError(f"{where}: labels are {allowed}; given: {array.dtype} of shape {array.shape}")
    return flat.astype(np.int64)
