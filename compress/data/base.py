"""Contract of a data source: four splits of samples, as numpy arrays, batch by batch."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.transforms import Normalise, random_mirror, random_shift
from deploy.engines.inputs import Inputs, digest, rows
from deploy.processing.pictures import png
from deploy.processing.raws import Raw
from profiles.errors import UserError

Indices = npt.NDArray[np.int64]
INPUT_TYPES = tuple(np.dtype(kind) for kind in ("float32", "float64", "int32", "int64", "bool"))
"""Types of inputs by name: values; ids; masks."""

ENDINGS = ("_scale", "_zero_point", "_quantized", "_dequantized")
RESERVED = ("self", "file", "allow_pickle", "args", "kwds", "input", "output")


@dataclass(frozen=True)
class Batch:
    """Inputs of shape (samples, ...) in the model's input format, or several by name, and targets in the task's.

    Several inputs are a table of arrays by the names of the model's inputs (``deploy.engines.inputs``).

    Targets have a row a sample: for classification integer labels of shape (samples,), -1 where there is none; for
    detection float32 boxes of shape (samples, most, 5), each [label, x1, y1, x2, y2] in pixels of the input,
    label -1 for rows that only fill up; for dense tasks an array of shape (samples, ...), integer labels -1 and values NaN
    where there is none; for tags (samples, classes) from 0 to 1; for keypoints (samples, points + 1, 3).
    """

    inputs: Any
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.targets)


def evenly_spaced(length: int, most: int) -> Indices:
    """Return at most ``most`` indices of ``length``, evenly spaced."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(np.int64))


@final
@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of training images, as one can go on with it where the images are stored elsewhere.

    Attributes:
        shift: largest shift in pixels.
        mirror: whether half of the images are mirrored.
    """

    shift: int = 0
    mirror: bool = False


class Samples(ABC):
    """One split. Subclasses are final.

    Attributes:
        classes: names of the classes where the samples know them, for what a metric says of each.
        augmentation: of its images when it is loaded augmented, as near as ``Augmentation`` says it.
    """

    classes: tuple[str, ...] = ()
    augmentation: Augmentation = Augmentation()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        """Load the samples at ``indices``; augmented when given a generator, the only source of randomness."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the content, cheaply enough for every start."""

    def raw(self, index: int) -> Raw | None:
        """Return a sample as an application has it: a file's bytes, a text, an array; None where that is not known."""
        return None

    @final
    def evenly_spaced_batches(self, most: int, size: int) -> Iterator[Batch]:
        """Iterate over at most ``most`` evenly spaced samples, not augmented, in batches of ``size``."""
        chosen = evenly_spaced(len(self), most)
        for start in range(0, len(chosen), size):
            yield self.load(chosen[start : start + size])

    @final
    def batches(self, size: int) -> Iterator[Batch]:
        """Iterate over all samples in order, not augmented, in batches of ``size``; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self.load(np.arange(start, min(start + size, len(self))))


@final
class ArraySamples(Samples):
    """Samples in memory: images of shape (samples, channels, height, width), float32 or uint8, and labels.

    Float32 images are what the model takes. Uint8 images (a quarter of the memory) need ``normalise``, and become
    float32 when they are loaded.

    Augmentation shifts each image by up to ``shift`` pixels and mirrors it when ``mirror``. Pixels that come in are
    ``fill``, a value of the images as they are held: for uint8 images black before normalisation, which is what the
    usual CIFAR recipe pads with. ``originals`` are uint8 images (samples, channels, ...) that float images were made of.

    Raises:
        UserError: images and labels of different lengths, or images that ``normalise`` does not fit.
    """

    def __init__(
        self,
        images: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        *,
        shift: int = 0,
        mirror: bool = False,
        fill: float = 0,
        normalise: Normalise | None = None,
        originals: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        faults = _misfits(images, labels, normalise)
        if faults:
            raise UserError(*faults)
        # cross-entropy of torch takes labels of int64 only
        self.images, self.labels = images, labels.astype(np.int64, copy=False) if labels.dtype.kind in "iu" else labels
        self._shift, self._mirror, self._fill, self._normalise = shift, mirror, fill, normalise
        self.augmentation = Augmentation(shift=shift, mirror=mirror)
        self._originals = originals if originals is not None or images.dtype != np.uint8 else images

    def __len__(self) -> int:
        return len(self.images)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        images = self.images[indices]
        if augment is not None and len(images):
            images = random_shift(images, self._shift, augment, self._fill)
            if self._mirror:
                random_mirror(images, augment)
        return Batch(images if self._normalise is None else self._normalise(images), self.labels[indices])

    def raw(self, index: int) -> Raw:
        """Return an image as a PNG; an array where that is all there is."""
        originals = self._originals
        return Raw(value=self.images[index] if originals is None else png(np.moveaxis(originals[index], 0, 2)))

    def fingerprint(self) -> str:
        settings = (self.images.shape, str(self.images.dtype), self._shift, self._mirror, self._fill, self._normalise)
        digest = hashlib.sha256(repr(settings).encode())
        digest.update(np.ascontiguousarray(self.images).data)  # not a copy: 200 MB take a tenth of a second
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


@final
class NamedSamples(Samples):
    """Samples in memory of a model with several inputs.

    Args:
        inputs: an array (samples, ...) for each name: floats, integer ids, boolean masks. Float64 becomes float32.
        labels: (samples, ...).
        classes: their names.
        raws: the samples as an application has them, such as texts.

    Raises:
        UserError: no inputs, names that are no Python names, arrays of other types, or of different lengths; all of them.

    Example:
        >>> two = NamedSamples({"left": np.zeros((4, 3)), "right": np.ones((4, 3))}, np.zeros(4, np.int64))
        >>> two.load(np.arange(2)).inputs["right"].shape
        (2, 3)
    """

    def __init__(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        labels: npt.NDArray[Any],
        classes: tuple[str, ...] = (),
        raws: Sequence[Any] = (),
    ) -> None:
        self.classes, self._raws = classes, raws
        inputs, labels = {name: np.asarray(array) for name, array in inputs.items()}, np.asarray(labels)
        faults = _misnamed(inputs, labels)
        if faults:
            raise UserError(*faults)
        self.inputs = {
            name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in inputs.items()
        }
        self.labels = labels.astype(np.int64, copy=False) if labels.dtype.kind in "iu" else labels

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        return Batch(rows(self.inputs, indices), self.labels[indices])

    def raw(self, index: int) -> Raw:
        """Return a sample as it came; its arrays by name where that is all there is."""
        return Raw(value=self._raws[index] if self._raws else {name: array[index] for name, array in self.inputs.items()})

    def fingerprint(self) -> str:
        content = digest({**self.inputs, "": self.labels})
        return hashlib.sha256(f"{content} {self.classes}".encode()).hexdigest()  # names decide what a tag is


def _misnamed(inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[Any]) -> list[str]:
    """Say what is wrong with inputs by name."""
    faults = [] if inputs else ["data: no inputs; each has a name that the model's forward takes"]
    for name, array in inputs.items():
        if not (isinstance(name, str) and name.isidentifier()):
            faults.append(f"data: inputs are named as the parameters of the model's forward; given: {name!r}")
        elif name in RESERVED or name.startswith("output_"):
            faults.append(f"data: no input is called {name}, which files have a use of their own for; rename the parameter")
        if array.dtype not in INPUT_TYPES or array.ndim < 1:
            allowed = ", ".join(str(kind) for kind in INPUT_TYPES)
            faults.append(f"data: input {name} is an array (samples, ...) of {allowed}; given: {array.dtype} {array.shape}")
        elif len(array) != len(labels):
            faults.append(f"data: input {name} has {len(array)} samples, and there are {len(labels)} labels")
        elif array.dtype == np.float64 and (np.abs(array[np.isfinite(array)]) > np.finfo(np.float32).max).any():
            faults.append(f"data: input {name} has numbers beyond those of float32")
        if stem := next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), ""):
            faults += [f"data: inputs {stem} and {name}: files call what belongs to {stem} so; rename one"] * (
                stem in inputs
            )
    return faults


def _misfits(images: npt.NDArray[Any], labels: npt.NDArray[Any], normalise: Normalise | None) -> list[str]:
    faults: list[str] = []
    if len(images) != len(labels):
        faults.append(f"data: {len(images)} images and {len(labels)} labels; each image has one (-1 where there is none)")
    if (images.dtype == np.uint8) != (normalise is not None):
        words = "uint8 images need normalise (compress.data.transforms.Normalise), and float32 images go without it"
        faults.append(f"data: {words}; given: {images.dtype} with normalise={normalise}")
    elif normalise is not None and (images.ndim != 4 or images.shape[1] != normalise.channels):
        words = f"of shape (samples, {normalise.channels}, height, width), as the mean has {normalise.channels} values"
        faults.append(f"data: the images are {words}; given: {images.shape}")
    return faults


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Four splits of a data source.

    ``calibration`` gives quantisation its ranges, ``validation`` every choice, ``test`` the report's rows.

    Attributes:
        classes: names of the classes, in the order of the labels; empty for tasks without.
        preprocessing: what was done to a sample before the model sees it (size, mean, deviation, colour order), for
            whoever feeds the engine; goes into the bundle. ``use`` names a part of ``deploy.processing.preprocessing``.
        files: that it names, by their names in a bundle: a tokenizer.
        notes: what was left out of the data, and why; said when a run starts.
    """

    train: Samples
    calibration: Samples
    validation: Samples
    test: Samples
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash the content of all four, and the names of the classes."""
        parts = (self.train, self.calibration, self.validation, self.test)
        contents = [*(part.fingerprint() for part in parts), repr(self.classes)]
        return hashlib.sha256("".join(contents).encode()).hexdigest()


def split_indices(count: int, fractions: tuple[float, ...], seed: int) -> list[Indices]:
    """Cut a seeded permutation of ``range(count)`` by ``fractions``; the rest is the last part."""
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    cuts = np.cumsum([round(count * f) for f in fractions])
    return [np.sort(part) for part in np.split(order, cuts)]


def assign_splits(
    counts: Mapping[str, int],
    *,
    validation: float,
    test: float = 0.1,
    calibration: int,
    seed: int,
    labels: npt.NDArray[Any] | None = None,
) -> dict[str, tuple[str, Indices]]:
    """Assign the samples of a source's parts to the four splits: for each split a part and indices into it.

    ``counts`` has the sizes of the parts that a source comes with: train, and validation or test where it has them.

    1. A part that is given is its split, whole.
    2. Without a test part, a given validation part is the test (as with the two folders of ImageNet, where papers
       report on ``val``) and validation is held out from train; so choices and verdict never share a sample.
    3. What is missing then is held out from train, by ``seed``: ``validation`` and ``test`` are shares of it when
       below 1, and numbers of samples from 1 on.
    4. Calibration is drawn from what is left of train, and stays in it: at most ``calibration`` samples.
    5. With class numbers of train's samples as ``labels``, what is held out and calibration have each class in the
       proportion that train has it in, to a sample or two.

    Raises:
        UserError: sizes that are not possible; all of them.
    """
    parts = {name: name for name in ("train", "validation", "test") if counts.get(name)}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    faults = [
        f"data: {name} is a share below 1 or a number of samples; given: {size!r}"
        for name, size in (("validation", validation), ("test", test))
        if name not in parts and not 0 < size < math.inf
    ]
    if calibration < 1:
        faults.append(f"data: calibration is a number of samples, 1 or more; given: {calibration!r}")
    total = counts.get("train", 0)
    held = {
        name: round(total * size) if size < 1 else int(size)
        for name, size in (("test", test), ("validation", validation))
        if name not in parts
    }
    empty = [name for name, size in held.items() if size < 1]
    if not faults and (empty or sum(held.values()) >= total):
        asked = " and ".join(f"{size} for {name}" for name, size in held.items())
        faults.append(f"data: {total} training samples cannot spare {asked or 'any'}; each split needs one at least")
    if faults:
        raise UserError(*faults)
    order = np.random.default_rng(seed).permutation(total).astype(np.int64)
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu":
        order = _spread(order, labels, seed)
    chosen = {name: (part, np.arange(counts[part])) for name, part in parts.items()}
    for name, size in held.items():
        chosen[name], order = ("train", np.sort(order[:size])), order[size:]
    return {**chosen, "train": ("train", np.sort(order)), "calibration": ("train", np.sort(order[:calibration]))}


def _spread(order: Indices, labels: npt.NDArray[Any], seed: int) -> Indices:
    """Reorder samples so that each stretch has every class in its proportion: a class's samples are evenly spaced."""
    random = np.random.default_rng(seed)
    places = np.empty(len(order))
    for label in np.unique(labels):
        mine = labels[order] == label
        places[mine] = (np.arange(mine.sum()) + random.uniform()) / mine.sum()
    return order[np.argsort(places, kind="stable")]


def array_splits(
    parts: Mapping[str, tuple[Inputs, npt.NDArray[Any]]],
    chosen: Mapping[str, tuple[str, Indices]],
    *,
    classes: tuple[str, ...],
    normalise: Normalise | None,
    shift: int = 0,
    mirror: bool = False,
) -> Splits:
    """Make splits of images and labels in memory; only training is augmented.

    Args:
        parts: images as ``ArraySamples`` takes them, or inputs by name, and labels, of train, and of validation and test
            where there are.
        chosen: what ``assign_splits`` made of their sizes.
    """
    samples: dict[str, Any] = {}
    for name, (part, indices) in chosen.items():
        images, labels = parts[part]
        if len(indices) < len(labels):
            images, labels = rows(images, indices), labels[indices]
        trained = name == "train"
        if isinstance(images, Mapping):
            samples[name] = NamedSamples(images, labels)
        else:
            samples[name] = ArraySamples(
                images, labels, shift=shift if trained else 0, mirror=mirror and trained, normalise=normalise
            )
        samples[name].classes = classes  # for what a metric says of each
    first = parts["train"][0]
    if normalise is not None and not isinstance(first, Mapping):
        about = whole_image_json((first.shape[-2], first.shape[-1]), normalise)
    else:
        about = {"use": "array", **({} if isinstance(first, Mapping) else {"size": list(first.shape[-2:])})}
    return Splits(**samples, classes=classes, preprocessing=about)


def whole_image_json(size: tuple[int, int], normalise: Normalise) -> dict[str, Any]:
    """Describe images that are held at the input's size; others are resized to it whole."""
    about = {"use": "image", "size": list(size), "crop": "none", "interpolation": "bilinear, antialiased"}
    return {**about, **normalise.as_json()}
