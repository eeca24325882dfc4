"""model.packed: a file format for models with packed weights, decoded to the model file byte for byte.

A safetensors file with these arrays, each for all weights, one after the other:

    points    F32  the points of a weight, in 0 .. 1 and rising; none where they are even
    low span  F32  least value and range of each bucket of weights: a weight is low + span * points[index]
    scales    F32  of a weight that the file has in int8: the scale of each channel
    indices   U8   ``bits`` each, or a byte each in a raw DEFLATE stream of Huffman codes (RFC 1951) where that is shorter
    rest      U8   everything else of the file, as zlib makes it

Its metadata has ``format``, ``size`` (of the decoded file) and ``weights``: a JSON list, an entry for each weight in the
order of the arrays, which says where its bytes go (``at``) and how they are made. It has one form: a header that any other
writer would make is refused. Decoding needs numpy alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from deploy.packing.indices import MOST_BITS, Floats, PackedTensor, even_points, pack_indices, quantize_weight
from deploy.packing.packed_layout import ARRAYS, RAW, assemble, deflate, inflate, parse
from profiles.json_kinds import is_count

FILE = "model.packed"
PARTS = ("indices", "codes", "points", "scales", "integers", "rest", "header")
KEYS = {"name", "at", "shape", "bits", "bucket", "even", "code", "bytes", "axes", "form"}
INT8_KEYS = {"axis", "limit", "scales", "scales_at"}
Form = Literal["float32", "float16", "int8"]


@final
@dataclass(frozen=True, kw_only=True)
class Int8Form:
    """The int8 form of a weight: arguments of ``quantize_weight``, and the offset of the scales in the file."""

    scale: Floats
    scale_at: int
    axis: int
    limit: int


@final
@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A packed weight and its place in the model file.

    Attributes:
        at: offset of its bytes in the file.
        axes: order of its axes in the file.
        form: type in the file.
        integers: scales of the form ``int8``; None for the others.
    """

    name: str
    at: int
    packed: PackedTensor
    axes: tuple[int, ...]
    form: Form = "float32"
    integers: Int8Form | None = None

    def content(self) -> bytes:
        """Return its bytes in the model file."""
        return weight_bytes(self.packed.unpack().transpose(self.axes), self.form, self.integers)


@final
@dataclass(frozen=True, kw_only=True)
class SizeBreakdown:
    """Bytes of a packed file by content; every field but the first four is a part of ``file_bytes``.

    Attributes:
        weights: number of packed weights.
        model_bytes: size of the decoded model file.
        fixed_bytes: size of the indices without Huffman codes.
        indices: size of the stored indices, with the tables of their Huffman codes.
        codes: size of separate tables: 0 since version 2 of the format.
        scales: size of the buckets' ranges; ``integers``: of the scales of int8 weights.
        rest: size of all that is not packed, compressed; ``header``: of names, shapes and places.
    """

    weights: int
    model_bytes: int
    file_bytes: int
    fixed_bytes: int
    indices: int
    codes: int
    points: int
    scales: int
    integers: int
    rest: int
    header: int

    @property
    def float_bytes(self) -> int:
        """Size of the packed weights in fp32."""
        return 4 * self.weights

    @property
    def stored_bytes(self) -> int:
        """Size of the stored weights, with points, ranges and header."""
        return self.indices + self.codes + self.points + self.scales + self.header

    @property
    def factor(self) -> float:
        """Compression of the packed weights against fp32."""
        return self.float_bytes / self.stored_bytes if self.stored_bytes else 1.0


def describe(sizes: SizeBreakdown) -> str:
    """Describe the sizes in one line."""
    kib = {name: f"{getattr(sizes, name) / 1024:.1f}" for name in PARTS}
    parts = ", ".join(f"{name} {kib[name]}" for name in PARTS if getattr(sizes, name))
    return (
        f"{sizes.weights} weights, {sizes.float_bytes / 1024:.1f} KiB as fp32, stored in {sizes.stored_bytes / 1024:.1f} "
        f"({sizes.factor:.1f}x smaller); file {sizes.file_bytes / 1024:.1f} KiB of {sizes.model_bytes / 1024:.1f}: {parts}; "
        f"indices without Huffman codes {sizes.fixed_bytes / 1024:.1f}"
    )


def weight_bytes(weight: npt.NDArray[Any], form: Form, integers: Int8Form | None) -> bytes:
    """Convert a weight to its bytes in a model file, row by row."""
    if integers is not None:
        return quantize_weight(weight, integers.scale, integers.axis, integers.limit).tobytes()
    return np.ascontiguousarray(weight, np.dtype(form).newbyteorder("<")).tobytes()


def write(model: bytes, stored_weights: Sequence[StoredWeight]) -> bytes:
    """Write the packed file that decodes to ``model``.

    Raises:
        ValueError: a weight is not at its place in ``model``, or two overlap.
    """
    ordered = sorted(stored_weights, key=lambda stored: stored.at)
    columns: dict[str, list[bytes]] = {name: [] for name in ARRAYS}
    entries = []
    for stored in ordered:
        entries.append(_append(stored, columns))
    columns["rest"].append(zlib.compress(_rest(model, ordered), 9))
    content = assemble(len(model), entries, {name: b"".join(parts) for name, parts in columns.items()})
    if read(content) != model:
        raise ValueError("the packed file does not decode to the model")
    return content


def read(content: bytes) -> bytes:
    """Read the model file that ``write`` was given.

    Raises:
        ValueError: it is no packed file of this version.
    """
    size, entries, arrays = parse(content)
    stored_weights = _read_weights(entries, arrays)
    places = _places(stored_weights)
    rest_size = size - sum(end - start for start, end, _ in places)
    if rest_size < 0 or (places and places[-1][1] > size):
        raise ValueError("its weights are larger than the file, or lie outside it")
    rest = inflate(arrays["rest"].tobytes(), rest_size, zlib.MAX_WBITS, "rest")
    parts, at, before = [], 0, 0
    for start, end, weight in places:
        parts += [rest[at : at + start - before], weight]
        at, before = at + start - before, end
    return b"".join([*parts, rest[at:]])


def repack(content: bytes, model: bytes) -> bytes:
    """Write the packed file of ``model``, which has the weights of the packed file ``content`` in the same places.

    Raises:
        ValueError: it has not, or ``content`` is no packed file of this version.
    """
    _, entries, arrays = parse(content)
    return write(model, _read_weights(entries, arrays))


def size_breakdown(content: bytes) -> SizeBreakdown:
    """Break down the size of a packed file by content.

    Raises:
        ValueError: it is no packed file of this version.
    """
    size, entries, arrays = parse(content)
    stored_weights = _read_weights(entries, arrays)
    bytes_of = {name: array.nbytes for name, array in arrays.items()}
    return SizeBreakdown(
        weights=sum(int(np.prod(stored.packed.shape)) for stored in stored_weights),
        model_bytes=size,
        file_bytes=len(content),
        fixed_bytes=sum(len(stored.packed.indices) for stored in stored_weights),
        indices=bytes_of["indices"],
        codes=0,
        points=bytes_of["points"],
        scales=bytes_of["low"] + bytes_of["span"],
        integers=bytes_of["scales"],
        rest=bytes_of["rest"],
        header=len(content) - sum(bytes_of.values()),
    )


def _append(stored: StoredWeight, columns: dict[str, list[bytes]]) -> dict[str, Any]:
    """Append a weight's arrays, and return its entry."""
    packed = stored.packed
    deflated = deflate(packed.symbols().tobytes())
    shorter = len(deflated) < len(packed.indices)
    if not packed.uniform:
        columns["points"].append(_bytes(packed.points, "<f4"))
    columns["low"].append(_bytes(packed.low, "<f4"))
    columns["span"].append(_bytes(packed.span, "<f4"))
    columns["indices"].append(deflated if shorter else packed.indices)
    entry: dict[str, Any] = {
        "name": stored.name,
        "at": stored.at,
        "shape": list(packed.shape),
        "bits": packed.bits,
        "bucket": packed.bucket,
        "even": packed.uniform,
        "code": "deflate" if shorter else "fixed",
        "bytes": len(columns["indices"][-1]),
        "axes": list(stored.axes),
        "form": stored.form,
    }
    if stored.integers is not None:
        form = stored.integers
        columns["scales"].append(_bytes(form.scale, "<f4"))
        entry |= {"axis": form.axis, "limit": form.limit, "scales": len(form.scale), "scales_at": form.scale_at}
    return entry


def _read_weights(entries: Sequence[Mapping[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]) -> list[StoredWeight]:
    """Read the weights of a file, which use up its arrays exactly."""
    reader = _ArrayReader(arrays)
    stored_weights = [_read_weight(entry, reader) for entry in entries]
    reader.check()
    return stored_weights


def _read_weight(entry: Mapping[str, Any], reader: _ArrayReader) -> StoredWeight:
    _check_entry(entry)
    shape, bits, bucket = tuple(entry["shape"]), entry["bits"], entry["bucket"]
    number = int(np.prod(shape))
    indices = reader.take("indices", entry["bytes"]).tobytes()
    if entry["code"] == "deflate":
        symbols = np.frombuffer(inflate(indices, number, RAW, f"indices of {entry['name']}"), np.uint8)
        if symbols.max() >= 2**bits:
            raise ValueError(f"{entry['name']}: index {symbols.max()} of {2**bits} points")
        indices = pack_indices(symbols, bits)
    if len(indices) != -(-number * bits // 8):
        raise ValueError(f"{entry['name']}: {len(indices)} bytes are not {number} indices of {bits} bits")
    points = even_points(bits) if entry["even"] else reader.take("points", 2**bits)
    buckets = -(-number // bucket)
    packed = PackedTensor(
        shape=shape,
        bits=bits,
        bucket=bucket,
        points=points,
        low=reader.take("low", buckets),
        span=reader.take("span", buckets),
        indices=indices,
        uniform=entry["even"],
    )
    integers = None
    if entry["form"] == "int8":
        scale = reader.take("scales", entry["scales"])
        if not 0 <= entry["axis"] < len(shape) or len(scale) != shape[entry["axes"][entry["axis"]]]:
            raise ValueError(f"{entry['name']}: {len(scale)} scales along axis {entry['axis']} of {list(shape)}")
        integers = Int8Form(scale=scale, scale_at=entry["scales_at"], axis=entry["axis"], limit=entry["limit"])
    axes = tuple(entry["axes"])
    return StoredWeight(name=entry["name"], at=entry["at"], packed=packed, axes=axes, form=entry["form"], integers=integers)


def _check_entry(entry: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless a weight's entry is valid."""
    allowed = KEYS | (INT8_KEYS if entry.get("form") == "int8" else set())
    if set(entry) != allowed:
        raise ValueError(f"a weight has {', '.join(sorted(entry))}; known: {', '.join(sorted(allowed))}")
    numbers = [entry[key] for key in allowed & {"at", "bits", "bucket", "bytes", "axis", "limit", "scales", "scales_at"}]
    lists = [*entry["shape"], *entry["axes"]]
    good = all(map(is_count, [*numbers, *lists]))
    good = good and 1 <= entry["bits"] <= MOST_BITS and entry["bucket"] > 0 and 0 < np.prod(entry["shape"]) < 2**40
    good = good and sorted(entry["axes"]) == list(range(len(entry["shape"]))) and isinstance(entry["even"], bool)
    if not (good and entry["form"] in ("float32", "float16", "int8") and entry["code"] in ("fixed", "deflate")):
        raise ValueError(f"{entry['name']!r}: no weight is so")


class _ArrayReader:
    """Reader of arrays, part by part from the front."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._arrays = {name: array for name, array in arrays.items() if name != "rest"}
        self._at = dict.fromkeys(self._arrays, 0)

    def take(self, name: str, number: int) -> npt.NDArray[Any]:
        start = self._at[name]
        self._at[name] = start + number
        if self._at[name] > len(self._arrays[name]):
            raise ValueError(f"{name} ends early")
        return self._arrays[name][start : start + number]

    def check(self) -> None:
        """Raise ``ValueError`` unless all arrays are read to their ends."""
        left = [name for name, array in self._arrays.items() if self._at[name] != len(array)]
        if left:
            raise ValueError(f"{', '.join(left)}: more than its weights take")


def _rest(model: bytes, stored_weights: Iterable[StoredWeight]) -> bytes:
    """Return the bytes of ``model`` without its packed weights."""
    left, before = [], 0
    for start, end, content in _places(list(stored_weights)):
        if model[start:end] != content:
            raise ValueError(f"a weight is not at byte {start} of the model")
        left.append(model[before:start])
        before = end
    return b"".join([*left, model[before:]])


def _places(stored_weights: Sequence[StoredWeight]) -> list[tuple[int, int, bytes]]:
    """Return begin, end and bytes of all weights and their scales, in order.

    Raises:
        ValueError: two overlap.
    """
    contents = [(stored.at, stored.content()) for stored in stored_weights]
    contents += [(p.integers.scale_at, _bytes(p.integers.scale, "<f4")) for p in stored_weights if p.integers is not None]
    places = sorted((at, at + len(content), content) for at, content in contents)
    if any(before[1] > after[0] for before, after in pairwise(places)):
        raise ValueError("two weights overlap")
    return places


def _bytes(array: npt.NDArray[Any], kind: str) -> bytes:
    return np.ascontiguousarray(array, kind).tobytes()
