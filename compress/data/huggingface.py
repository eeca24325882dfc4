"""Data sets of Hugging Face: from the hub, or from a folder of ``save_to_disk``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Indices, Splits, assign_splits
from compress.data.images import ImagePreprocessing, ImageStore, image_splits
from compress.data.options import Seed, Sides, as_sides, checked_options
from compress.data.transforms import IMAGENET, make_normalise
from deploy.processing.pictures import png
from profiles.errors import UserError, one_line

PARTS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
NONE = "none"
ROWS = 1000
"""Read at a time when everything is hashed."""


@checked_options("data: huggingface")
def huggingface(
    *,
    name: str,
    configuration: str = "",
    revision: str = "",
    image: str = "",
    label: str = "",
    size: Sides = 224,
    short_side: int = 0,
    crop: str = "centre",
    interpolation: str = "bilinear",
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    augment: str = "crop",
    least_area: float = 0.08,
    shift: int = 4,
    mirror: bool = True,
) -> Splits:
    """Read a data set of the hub or of ``save_to_disk``, as float32 of shape (channels, height, width).

    Columns are found by their types when there is one of them: ``image`` holds pictures, or arrays of uint8 of shape
    (H, W) or (H, W, 3 or 1); ``label`` class labels or whole numbers, ``label="none"`` stands for none (-1). Other
    options as in ``compress.data.images``; a part without a single label, as tests on the hub often are, is not used
    unless train has none either. The fingerprint is of every picture's bytes: they are read once at each start.

    Raises:
        UserError: the package is missing, the data set cannot be loaded, or its columns are not of that kind.
    """
    normalise = make_normalise(mean, deviation, order, scale, usual=IMAGENET)
    view = ImagePreprocessing(
        normalise=normalise,
        size=as_sides(size),
        short_side=short_side,
        crop=crop,
        interpolation=interpolation,
        augment=augment,
        least_area=least_area,
        shift=shift,
        mirror=mirror,
    )
    loaded, places = _loaded(name, configuration, revision)
    parts = _parts(name, loaded)
    image, label = _columns(name, parts["train"], image, label)
    labels = {part: _labels(rows, label) for part, rows in parts.items()}
    labelled = {part for part, theirs in labels.items() if theirs.max(initial=-1) >= 0}
    used = [part for part in parts if part in labelled or "train" not in labelled]
    counts = {part: len(labels[part]) for part in used}
    chosen = assign_splits(
        counts, validation=validation, test=test, calibration=calibration, seed=seed, labels=labels["train"]
    )
    shelves = {part: _Rows(f"{name} {part}", parts[part], image, places) for part in used}
    return image_splits(shelves, labels, chosen, view, _classes(parts["train"], label, labels))


def _loaded(name: str, configuration: str, revision: str) -> tuple[Any, tuple[Path, ...]]:
    """Load a data set; with the folders that its pictures may be files of, any where there are none."""
    try:
        import datasets
    except ImportError:
        words = "the data 'huggingface' comes with the package datasets"
        raise UserError(f"{words}; pip install 'edge-compress[datasets]'") from None
    import huggingface_hub

    # no telemetry; set here since the environment is read when they are imported, by others perhaps
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder)), ()
        loaded = datasets.load_dataset(name, configuration or None, revision=revision or None)
        caches = (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        return loaded, tuple(Path(place).expanduser().resolve() for place in (folder, *caches))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        remedy = "give a name of the hub, or a folder that save_to_disk wrote"
        raise UserError(f"data: the data set {name!r} cannot be loaded: {reason}; {remedy}") from error


def _parts(name: str, loaded: Any) -> dict[str, Any]:
    """Train, and validation and test where there are."""
    if not isinstance(loaded, Mapping):
        return {"train": loaded}
    parts = {part: loaded[word] for part, words in PARTS.items() for word in reversed(words) if word in loaded}
    if "train" not in parts:
        raise UserError(f"data: the data set {name!r} has no part 'train'; it has {', '.join(loaded)}")
    return parts


def _columns(name: str, rows: Any, image: str, label: str) -> tuple[str, str]:
    """The columns of pictures and labels: those given, or the only ones of their types."""
    import datasets

    features = rows.features
    faults = [
        f"data: the data set {name!r} has no column {column!r}; it has {', '.join(features)}"
        for column in (image, label)
        if column not in ("", NONE, *features)
    ]
    kinds = (
        ("image", image, "pictures or arrays of uint8", [c for c, kind in features.items() if _holds_pictures(kind)]),
        ("label", label, "class labels", [c for c, kind in features.items() if isinstance(kind, datasets.ClassLabel)]),
    )
    for option, given, what, columns in kinds:
        if not given and len(columns) != 1:
            has = f"has {len(columns)} columns of {what} ({', '.join(columns) or 'none'}) among {', '.join(features)}"
            faults.append(f"data: the data set {name!r} {has}; say which with {option} =")
    if image in features and not _holds_pictures(features[image]):
        faults.append(
            f"data: column {image!r} of {name!r} holds {features[image]}; pictures or arrays of uint8 are expected"
        )
    if label in features and not (isinstance(features[label], datasets.ClassLabel) or "int" in str(features[label].dtype)):
        faults.append(
            f"data: column {label!r} of {name!r} holds {features[label]}; class labels or whole numbers are expected"
        )
    if faults:
        raise UserError(*faults)
    return image or kinds[0][3][0], label or kinds[1][3][0]


def _holds_pictures(kind: Any) -> bool:
    import datasets

    arrays = isinstance(kind, (datasets.Array2D, datasets.Array3D)) and kind.dtype == "uint8"
    return isinstance(kind, datasets.Image) or arrays


def _labels(rows: Any, column: str) -> npt.NDArray[np.int64]:
    if column == NONE:
        return np.full(len(rows), -1, np.int64)
    return np.asarray(rows.select_columns([column])[:][column], np.int64)


def _classes(rows: Any, column: str, labels: Mapping[str, npt.NDArray[np.int64]]) -> tuple[str, ...]:
    kind = rows.features.get(column)
    if hasattr(kind, "names"):
        return tuple(kind.names)
    return tuple(str(label) for label in range(1 + max(int(theirs.max(initial=-1)) for theirs in labels.values())))


@final
class _Rows(ImageStore):
    """Rows of one part; opened here, not by datasets, so that a JPEG can be decoded small."""

    def __init__(self, name: str, rows: Any, column: str, places: tuple[Path, ...]) -> None:
        import datasets

        self._name, self._column, self._places = name, column, places
        alone = rows.select_columns([column])
        pictures = isinstance(rows.features[column], datasets.Image)
        self._rows = alone.cast_column(column, datasets.Image(decode=False)) if pictures else alone

    def take(self, indices: Indices) -> list[tuple[str, Callable[[], Image.Image]]]:
        held = self._rows[indices.tolist()][self._column]
        return [
            (f"{self._name}, row {index}", lambda value=value: _opened(value, self._places))  # type: ignore[misc]
            for index, value in zip(indices, held, strict=True)
        ]

    def content(self, index: int) -> bytes:
        return _file_of(self._rows[[index]][self._column][0], self._places)

    def digests(self, indices: Indices) -> list[str]:
        hashes: list[str] = []
        for start in range(0, len(indices), ROWS):
            held = self._rows[indices[start : start + ROWS].tolist()][self._column]
            hashes += [hashlib.sha256(_content(value, self._places)).hexdigest() for value in held]
        return hashes


def _file_of(value: Any, places: Sequence[Path]) -> bytes:
    """Return a picture's file; an array as a PNG."""
    if isinstance(value, dict):
        return _content(value, places)
    array = np.asarray(value, np.uint8)
    return png(array.reshape(*array.shape[:2], -1))


def _opened(value: Any, places: Sequence[Path]) -> Image.Image:
    if isinstance(value, dict):
        return Image.open(BytesIO(_content(value, places)))
    array = np.asarray(value, np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _content(value: Any, places: Sequence[Path]) -> bytes:
    if isinstance(value, dict):
        held: bytes | None = value["bytes"]
        return held if held is not None else _file(str(value["path"]), places).read_bytes()
    array = np.asarray(value, np.uint8)
    return repr(array.shape).encode() + array.tobytes()


def _file(name: str, places: Sequence[Path]) -> Path:
    """Return the file of a picture that a data set names.

    Raises:
        UserError: it lies outside of ``places``.
    """
    path = Path(name).resolve()
    if places and not any(path.is_relative_to(place) for place in places):
        raise UserError(f"data: the data set names a picture outside of its folder: {one_line(name, 200)}; it is not read")
    return path
