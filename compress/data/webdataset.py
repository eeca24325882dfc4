"""Shards as WebDataset writes them: tar files whose members are a sample's image and class, by one key."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from compress.data.base import Indices, Splits
from compress.data.decoding import SUFFIXES
from compress.data.fingerprints import file_digests
from compress.data.images import ImagePreprocessing, ImageStore, image_splits
from compress.data.options import Seed, Sides, as_sides, checked_options
from compress.data.transforms import IMAGENET, make_normalise
from profiles.errors import UserError, one_line

PARTS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}
"""What the names of a part's shards begin with; shards of other names are train's."""
LABEL, NONE = "cls", "none"
DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, MemoryError, RecursionError)
"""What a damaged archive raises: heads follow one another, and state any size."""
MOST_LABEL = 32
"""Bytes of a class number's text."""
MOST_CLASSES = 10**6
NAMED = 5


@final
@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image in a shard: where its bytes lie, and its class; -1 for none."""

    key: str
    shard: str
    offset: int
    size: int
    label: int


@checked_options("data: webdataset")
def webdataset(
    *,
    path: str | Path,
    size: Sides = 224,
    short_side: int = 0,
    crop: str = "centre",
    interpolation: str = "bilinear",
    label: str = LABEL,
    classes: Sequence[str] = (),
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
    """Read the ``.tar`` shards under ``path`` as float32 of shape (channels, height, width), any sample at any time.

    A sample is the members of one name up to its first dot: an image, and a class as the text of a whole number in
    ``.cls`` (``label`` is another suffix, or ``"none"``). Shards whose names begin with the words ``train``, ``val`` and
    ``test`` are those parts. What is missing is held out of train by a hash of each sample's name and ``seed``, so that a
    sample stays in its split whatever shards come beside it: ``validation`` and ``test`` are shares below 1. The shards are
    uncompressed and local; their heads are read at each start, their bytes hashed once. Other options as in
    ``compress.data.images``.

    Raises:
        UserError: no shards, shards that are no tar files, samples without image or class, sizes that are not possible.
    """
    view = ImagePreprocessing(
        normalise=make_normalise(mean, deviation, order, scale, usual=IMAGENET),
        size=as_sides(size),
        short_side=short_side,
        crop=crop,
        interpolation=interpolation,
        augment=augment,
        least_area=least_area,
        shift=shift,
        mirror=mirror,
    )
    root = Path(path).expanduser()
    parts = {part: _samples(root, shards, label) for part, shards in _shards(root).items()}
    chosen = _assigned(parts, validation=validation, test=test, calibration=calibration, seed=seed)
    labels = {part: np.array([each.label for each in samples], np.int64) for part, samples in parts.items()}
    most = 1 + max(int(numbers.max(initial=-1)) for numbers in labels.values())
    if classes and len(classes) < most:
        raise UserError(f"data: {root} has labels up to {most - 1}; given: {len(classes)} classes; name one for each label")
    names = tuple(classes) or tuple(map(str, range(most)))
    stores = {part: _Shards(root, samples) for part, samples in parts.items()}
    return image_splits(stores, labels, chosen, view, names)


def _shards(root: Path) -> dict[str, list[str]]:
    """List the shards of each part, by their names under ``root``."""
    found = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.tar")) if root.is_dir() else []
    if not found:
        raise UserError(f"data: {root} holds no .tar; give the folder of the shards")
    parts: dict[str, list[str]] = {}
    for name in found:
        base = name.rpartition("/")[2]
        part = next((part for part, words in PARTS.items() if re.match(rf"({'|'.join(words)})(?![a-zA-Z])", base)), "train")
        parts.setdefault(part, []).append(name)
    if "train" not in parts:
        raise UserError(f"data: {root} has {', '.join(parts)} and no train; name the training shards train-*.tar")
    return parts


def _samples(root: Path, shards: Sequence[str], label: str) -> list[Sample]:
    """List the samples of shards; their bytes are not read."""
    faults: list[str] = []
    samples: list[Sample] = []
    for shard in shards:
        try:
            samples += _of_shard(root, shard, label)
        except DAMAGE as error:
            faults.append(f"data: {root / shard}: {one_line(str(error), 200) or type(error).__name__}")
    twice, times = next(iter(Counter(sample.key for sample in samples).most_common(1)), ("", 0))
    if not faults and times > 1:
        faults.append(f"data: {root}: sample {one_line(twice, 100)!r} is there twice; the names of samples are their own")
    if faults:
        raise UserError(*faults[:NAMED])
    return samples


def _of_shard(root: Path, shard: str, label: str) -> Iterator[Sample]:
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(root / shard, "r:") as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                members.setdefault(f"{folder}/{stem}" if folder else stem, {})[suffix.lower()] = member
        for key, by_suffix in members.items():
            image = next((m for suffix, m in by_suffix.items() if f".{suffix}" in SUFFIXES), None)
            if image is None:
                raise ValueError(f"sample {key!r} has no image; it has {', '.join(by_suffix)}")
            number = -1 if label == NONE else _label(archive, key, by_suffix, label)
            yield Sample(key=key, shard=shard, offset=image.offset_data, size=image.size, label=number)


def _label(archive: tarfile.TarFile, key: str, by_suffix: Mapping[str, tarfile.TarInfo], label: str) -> int:
    if label not in by_suffix:
        has = ", ".join(by_suffix)
        raise ValueError(f'sample {key!r} has no .{label}; it has {has}; name the suffix with label =, or label = "none"')
    file = archive.extractfile(by_suffix[label])
    assert file is not None, "it is a regular file"
    text = file.read(MOST_LABEL + 1)
    if len(text) > MOST_LABEL or not text.strip().isdigit() or int(text) >= MOST_CLASSES:
        raise ValueError(
            f"sample {key!r}: .{label} is the text of a whole number below {MOST_CLASSES:,}; given: {text[:MOST_LABEL]!r}"
        )
    return int(text)


def _assigned(
    parts: Mapping[str, Sequence[Sample]], *, validation: float, test: float, calibration: int, seed: int
) -> dict[str, tuple[str, Indices]]:
    """Assign samples to the four splits by hashes of their names, as ``compress.data.base.assign_splits`` by draws."""
    given = {name: name for name in PARTS if parts.get(name)}
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
    shares = {name: share for name, share in (("test", test), ("validation", validation)) if name not in given}
    faults = [f"data: {name} is a share above 0 and below 1; given: {s!r}" for name, s in shares.items() if not 0 < s < 1]
    if calibration < 1:
        faults.append(f"data: calibration is a number of samples, 1 or more; given: {calibration!r}")
    if faults:
        raise UserError(*faults)
    drawn = _uniform(parts["train"], f"split {seed}")
    chosen = {name: (part, np.arange(len(parts[part]))) for name, part in given.items()}
    low = 0.0
    for name, share in shares.items():
        chosen[name] = ("train", np.flatnonzero((drawn >= low) & (drawn < low + share)))
        low += share
    left = np.flatnonzero(drawn >= low)
    order = np.argsort(_uniform(parts["train"], f"calibration {seed}")[left], kind="stable")
    chosen["train"] = ("train", left)
    chosen["calibration"] = ("train", np.sort(left[order[:calibration]]))
    empty = [name for name, (_, indices) in chosen.items() if not len(indices)]
    if empty:
        raise UserError(
            f"data: {len(drawn)} training samples leave none for {' and '.join(empty)}; give more, or other shares"
        )
    return chosen


def _uniform(samples: Sequence[Sample], salt: str) -> npt.NDArray[np.float64]:
    """Return a number from 0 to 1 for each sample by its name: (samples,)."""
    digests = [hashlib.sha256(f"{salt} {sample.key}".encode()).digest()[:6] for sample in samples]
    return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests])


@final
class _Shards(ImageStore):
    """Images within shards, read by their places."""

    def __init__(self, root: Path, samples: Sequence[Sample]) -> None:
        self._root, self._samples = root, samples

    def take(self, indices: Indices) -> list[tuple[str, Callable[[], Image.Image]]]:
        names = [f"{self._root / self._samples[index].shard}: {self._samples[index].key}" for index in indices]
        opens = [lambda index=index: Image.open(BytesIO(self.content(index))) for index in indices]
        return list(zip(names, opens, strict=True))

    def content(self, index: int) -> bytes:
        sample = self._samples[index]
        with (self._root / sample.shard).open("rb") as file:
            file.seek(sample.offset)
            return file.read(sample.size)

    def digests(self, indices: Indices) -> list[str]:
        shards = file_digests(self._root, sorted({sample.shard for sample in self._samples}))
        chosen = [self._samples[index] for index in indices]
        return [hashlib.sha256(f"{shards[s.shard]} {s.offset} {s.size}".encode()).hexdigest() for s in chosen]
