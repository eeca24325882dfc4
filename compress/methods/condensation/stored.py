"""Recovery set as a file: an uncompressed .npz of inputs, targets, soft labels and facts."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.base import Augmentation
from compress.data.transforms import Normalise
from deploy.engines.inputs import Inputs, by_name
from deploy.files import write_atomically
from deploy.files.npz import ArraysError, read_arrays
from profiles.errors import UserError, one_line
from profiles.json_kinds import every, is_count, is_line, is_text, optional, table

FORMAT = 1
ENVELOPE_BYTES = 4096
"""Room for headers and facts, where a set's size is given in bytes."""

LARGEST_HALF = 6e4
Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSet:
    """Set as it is stored.

    Attributes:
        inputs: (stored, ...); uint8 where they were bytes, else float16, float32, or as they came.
        targets: a row a sample.
        soft: arrays of soft labels (``soft_labels.encode``).
        facts: ``use``, ``task``, ``classes``, ``inputs`` (shapes), ``teacher`` (digest), ``tiles``, ``labels`` (form),
            ``normalise``, ``augmentation``, ``settings``, ``seed``.
    """

    inputs: Inputs
    targets: Array
    soft: Mapping[str, Array]
    facts: Mapping[str, Any]
    compensators: Array | None = None

    @property
    def normalise(self) -> Normalise | None:
        """Return the normalisation of bytes; None where inputs are stored as the model takes them."""
        told = self.facts["normalise"]
        if told is None:
            return None
        return Normalise(
            mean=tuple(told["mean"]), deviation=tuple(told["deviation"]), order=told["order"], scale=told["scale"]
        )

    @property
    def stored(self) -> int:
        """Return the number of stored inputs."""
        return len(next(iter(by_name(self.inputs).values())))

    def __len__(self) -> int:
        return len(self.targets)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays of the file."""
        named = {f"inputs.{name}": array for name, array in by_name(self.inputs).items()}
        extra = {} if self.compensators is None else {"compensators": self.compensators}
        facts = np.frombuffer(json.dumps({"format": FORMAT, **self.facts}, sort_keys=True).encode(), np.uint8)
        return {**named, "targets": self.targets, **self.soft, **extra, "facts": facts}

    def size_by_part(self) -> dict[str, int]:
        """Return the bytes of the file by what they are for; their sum is the file's size."""
        held = {name: array.nbytes for name, array in self.arrays().items()}
        inputs = sum(size for name, size in held.items() if name.startswith("inputs."))
        soft = sum(array.nbytes for array in self.soft.values())
        parts = {"inputs": inputs, "targets": held["targets"], "soft labels": soft}
        parts |= {} if self.compensators is None else {"compensators": held["compensators"]}
        return {**parts, "facts and headers": len(file_bytes(self)) - sum(parts.values())}


def file_bytes(stored: StoredSet) -> bytes:
    """Return the bytes of the file; equal sets give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **stored.arrays())
    return buffer.getvalue()


def save(path: Path, stored: StoredSet) -> None:
    """Write a set."""
    write_atomically(path, file_bytes(stored))


def load(path: Path) -> StoredSet:
    """Read a set.

    Raises:
        UserError: the file is none, in one line.
    """
    if not path.is_file():
        raise UserError(f"recovery set {path}: no such file; `compress condense` makes one")
    try:
        arrays = read_arrays(path)
        facts = json.loads(arrays.pop("facts").tobytes().decode())
        if facts.pop("format") != FORMAT:
            raise UserError(f"recovery set {path}: another version's; this one reads format {FORMAT}; make it again")
        return _assembled(arrays, facts)
    except UserError:
        raise
    except ArraysError as error:
        raise UserError(f"recovery set {path}: it {one_line(str(error), 200)}; `compress condense` makes one") from None
    except Exception as error:  # of another .npz, or a damaged one, anything may come
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise UserError(f"recovery set {path}: no set of `compress condense` ({reason}); make it again") from None


FACTS = {
    "use": is_line,
    "task": is_line,
    "classes": every(is_text),
    "inputs": table(every(is_count)),
    "teacher": is_line,
    "tiles": is_count,
    "labels": is_line,
    "normalise": optional(table(lambda value: True)),
    "augmentation": table(lambda value: True),
}
"""What each set tells of itself, of its kind."""


def _assembled(arrays: dict[str, Array], facts: Mapping[str, Any]) -> StoredSet:
    inputs = {name.removeprefix("inputs."): arrays[name] for name in arrays if name.startswith("inputs.")}
    single = list(inputs) == ["input"]
    soft = {name: array for name, array in arrays.items() if name.startswith("soft")}
    found = StoredSet(
        inputs=inputs["input"] if single else inputs,
        targets=arrays["targets"],
        soft=soft,
        facts=facts,
        compensators=arrays.get("compensators"),
    )
    if any(array.dtype.kind not in "biuf" or array.ndim == 0 for array in arrays.values()):
        raise ValueError("inputs, targets and soft labels are arrays of numbers")
    if missing := [name for name in FACTS if name not in facts]:
        raise ValueError(f"no {', '.join(missing)}")
    if wrong := [name for name, check in FACTS.items() if not check(facts[name])]:
        raise ValueError(f"{', '.join(wrong)} of another kind")
    Augmentation(**facts["augmentation"])
    if found.normalise is not None and normalise_channels(found) != found.normalise.channels:
        raise ValueError("inputs are not of the channels that they are normalised by")
    copies = 1 if found.compensators is None else len(found.compensators)
    if found.stored * int(facts["tiles"]) ** 2 * copies != len(found.targets):
        raise ValueError(f"{len(found.targets)} targets for {found.stored} inputs")
    if any(len(array) != len(found.targets) for array in soft.values()):
        raise ValueError("soft labels and targets differ in number")
    if found.normalise is not None and not all(isinstance(value, int | float) for value in found.normalise.mean):
        raise ValueError("the mean is a list of numbers")
    return found


def normalise_channels(stored: StoredSet) -> int:
    """Return the channels of stored images; 0 where inputs are no images of bytes."""
    inputs = stored.inputs
    is_image = not isinstance(inputs, Mapping) and inputs.ndim == 4 and inputs.dtype == np.uint8
    return int(inputs.shape[1]) if is_image and not isinstance(inputs, Mapping) else 0


def normalise_of(preprocessing: Mapping[str, Any], inputs: Inputs) -> Normalise | None:
    """Return how bytes became these inputs, where the data say so; None elsewhere."""
    mean, deviation = preprocessing.get("mean"), preprocessing.get("deviation")
    if isinstance(inputs, Mapping) or inputs.ndim != 4 or not mean or not deviation or len(mean) != inputs.shape[1]:
        return None
    order = preprocessing.get("order", "rgb")
    return Normalise(
        mean=tuple(mean),
        deviation=tuple(deviation),
        order="rgb" if order == "grey" else order,
        scale=float(preprocessing.get("scale", 1.0)),
    )


def as_bytes(images: npt.NDArray[np.float32], normalise: Normalise) -> npt.NDArray[np.uint8]:
    """Invert ``normalise``: (samples, channels, height, width) to the nearest bytes, red first."""
    mean, deviation = (np.array(each).reshape(-1, 1, 1) for each in (normalise.mean, normalise.deviation))
    values = (images * deviation + mean) * (255 / normalise.scale)
    ordered = values[:, ::-1] if normalise.order == "bgr" else values
    return np.ascontiguousarray(np.clip(np.rint(ordered), 0, 255).astype(np.uint8))


def as_stored(inputs: Inputs, normalise: Normalise | None) -> Inputs:
    """Return inputs as they are stored: bytes by ``normalise``, floats in half precision where that holds them."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if normalise is not None:
        return as_bytes(inputs, normalise)
    is_half = inputs.dtype.kind == "f" and float(np.abs(inputs).max(initial=0)) < LARGEST_HALF
    return inputs.astype(np.float16) if is_half else inputs


def small_targets(targets: Array) -> Array:
    """Return targets in the smallest type that holds them."""
    if targets.dtype.kind not in "iu":
        return targets
    low, high = int(targets.min(initial=0)), int(targets.max(initial=0))
    fits = (kind for kind in (np.int8, np.int16, np.int32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return targets.astype(next(fits, np.int64))
