"""Raw samples in one .npz: files of pictures and sounds by their bytes, texts, arrays. numpy alone.

The key of a sample's part is its number and what it is: ``0.file`` (uint8), ``0.json`` (a text, a pair of texts, a list of
words; uint8 of UTF-8), ``0.array``, ``0.array.NAME``, and ``0.box`` beside a picture with a figure.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

RAW_FILE, ANSWERS_FILE = "raw.npz", "answers.json"
MOST_BYTES = 250_000
"""Of raw.npz in a bundle; golden.npz has the rest of its megabyte."""

Arrays = dict[str, npt.NDArray[Any]]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """A raw sample, as an application has it.

    Attributes:
        value: a file's bytes, a text, a list (of a pair of texts, of words), an array, or a table of arrays by name.
        box: x, y, width and height of a figure in a picture.
    """

    value: Any
    box: tuple[float, float, float, float] | None = None


def pack(raws: Sequence[Raw]) -> Arrays:
    """Return the arrays of the file."""
    arrays: Arrays = {}
    for number, raw in enumerate(raws):
        value = raw.value
        if isinstance(value, bytes):
            arrays[f"{number}.file"] = np.frombuffer(value, np.uint8)
        elif isinstance(value, str | list | tuple):
            arrays[f"{number}.json"] = np.frombuffer(json.dumps(value).encode(), np.uint8)
        elif isinstance(value, Mapping):
            arrays |= {f"{number}.array.{name}": array for name, array in value.items()}
        else:
            arrays[f"{number}.array"] = value
        if raw.box is not None:
            arrays[f"{number}.box"] = np.array(raw.box, np.float64)
    return arrays


def unpack(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Raw]:
    """Return the samples of the file.

    Raises:
        ValueError: it holds something else.
    """
    parts: dict[int, Arrays] = {}
    for key, array in arrays.items():
        number, _, kind = key.partition(".")
        if not number.isascii() or not number.isdecimal() or len(number) > 6:
            raise ValueError(f"it holds {key[:40]!r}, which is no sample's")
        parts.setdefault(int(number), {})[kind] = array
    if sorted(parts) != list(range(len(parts))):
        raise ValueError("its samples are not numbered from 0 on")
    return [_sample(parts[number]) for number in range(len(parts))]


def _sample(parts: Arrays) -> Raw:
    box = parts.pop("box", None)
    if box is not None and (box.shape != (4,) or box.dtype.kind not in "fi"):
        raise ValueError("a box has four numbers")
    corners = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    named = {key.removeprefix("array."): array for key, array in parts.items() if key.startswith("array.")}
    if named and len(named) == len(parts):
        return Raw(value=named, box=corners)
    if set(parts) == {"array"}:
        return Raw(value=parts["array"], box=corners)
    if set(parts) == {"file"} and parts["file"].dtype == np.uint8:
        return Raw(value=parts["file"].tobytes(), box=corners)
    if set(parts) == {"json"} and parts["json"].dtype == np.uint8:
        return Raw(value=json.loads(parts["json"].tobytes()))
    raise ValueError(f"a sample has the parts {', '.join(sorted(parts))[:80]}")


def fitting(raws: Sequence[Raw], most_bytes: int = MOST_BYTES) -> tuple[bytes, int]:
    """Return the .npz of as many first samples as ``most_bytes`` hold, and how many; empty where not one does."""
    taken = len(raws)
    while taken:
        stream = io.BytesIO()
        np.savez_compressed(stream, **pack(raws[:taken]))  # type: ignore[arg-type]  # numpy's stub
        if stream.tell() <= most_bytes:
            return stream.getvalue(), taken
        taken = min(taken - 1, int(taken * most_bytes / stream.tell()))
    return b"", 0
