"""model.packed: a model file whose weights are indices of few points, decoded to that very file, byte for byte.

A safetensors file with these arrays, each holding what its name says of all weights, one after the other:

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

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from deploy.packing.indices import MOST_BITS, Floats, PackedTensor, even_points, pack_indices, quantize_weight

FILE = "model.packed"
FORMAT = "edge-compress packed model 2"
ARRAYS = {
    "points": "<f4",
    "low": "<f4",
    "span": "<f4",
    "scales": "<f4",
    "indices": "u1",
    "rest": "u1",
}
DTYPES = {"<f4": "F32", "u1": "U8"}
PARTS = ("indices", "codes", "points", "scales", "integers", "rest", "header")
LONGEST_HEADER = 100 << 20
RAW = -zlib.MAX_WBITS
"""Of a DEFLATE stream without zlib's header and checksum."""
KEYS = {"name", "at", "shape", "bits", "bucket", "even", "code", "bytes", "axes", "form"}
INT8_KEYS = {"axis", "limit", "scales", "scales_at"}
Form = Literal["float32", "float16", "int8"]


@final
@dataclass(frozen=True, kw_only=True)
class Int8Form:
    """How a weight became int8: ``quantize_weight``'s arguments, and where in the file the scales stand too."""

    scale: Floats
    scale_at: int
    axis: int
    limit: int


@final
@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight of a model file.

    Attributes:
        at: where in the file its bytes begin.
        axes: in which order the file has its axes.
        form: in which type the file has it.
    """

    name: str
    at: int
    packed: PackedTensor
    axes: tuple[int, ...]
    form: Form = "float32"
    integers: Int8Form | None = None

    def content(self) -> bytes:
        """Its bytes in the file."""
        return weight_bytes(self.packed.unpack().transpose(self.axes), self.form, self.integers)


@final
@dataclass(frozen=True, kw_only=True)
class SizeBreakdown:
    """What a packed file's bytes are for; every field but the first four is a part of ``file_bytes``.

    Attributes:
        weights: how many numbers are packed.
        model_bytes: of the file that it is decoded to.
        fixed_bytes: what the indices would take without Huffman codes.
        indices: the indices as they are stored, the tables of their Huffman codes counted.
        codes: tables that lie apart from the indices: none since version 2 of the format.
        scales: ranges of the buckets; ``integers``: scales of weights that the file has in int8.
        rest: what is not packed, compressed; ``header``: names, shapes and places.
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
        """The packed weights as fp32."""
        return 4 * self.weights

    @property
    def stored_bytes(self) -> int:
        """The packed weights as they are stored, all that decodes them counted."""
        return self.indices + self.codes + self.points + self.scales + self.header

    @property
    def factor(self) -> float:
        """How many times smaller the packed weights are than as fp32."""
        return self.float_bytes / self.stored_bytes if self.stored_bytes else 1.0


def describe(sizes: SizeBreakdown) -> str:
    """Describe an account in one line."""
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


def write(model: bytes, pieces: Sequence[StoredWeight]) -> bytes:
    """Write the packed file that decodes to ``model``.

    Raises:
        ValueError: a piece is not at its place in ``model``, or two overlap.
    """
    ordered = sorted(pieces, key=lambda piece: piece.at)
    columns: dict[str, list[bytes]] = {name: [] for name in ARRAYS}
    entries = []
    for piece in ordered:
        entries.append(_put(piece, columns))
    columns["rest"].append(zlib.compress(_rest(model, ordered), 9))
    content = _assembled(len(model), entries, {name: b"".join(parts) for name, parts in columns.items()})
    if read(content) != model:
        raise ValueError("the packed file does not decode to the model")
    return content


def read(content: bytes) -> bytes:
    """Read the model file that ``write`` was given.

    Raises:
        ValueError: it is no packed file of this version.
    """
    size, entries, arrays = _parsed(content)
    pieces = _pieces(entries, arrays)
    places = _places(pieces)
    room = size - sum(end - start for start, end, _ in places)
    if room < 0 or (places and places[-1][1] > size):
        raise ValueError("its weights are larger than the file, or lie outside it")
    rest = _inflated(arrays["rest"].tobytes(), room, zlib.MAX_WBITS, "rest")
    made, taken, before = [], 0, 0
    for start, end, describe in places:
        made += [rest[taken : taken + start - before], describe]
        taken, before = taken + start - before, end
    return b"".join([*made, rest[taken:]])


def size_breakdown(content: bytes) -> SizeBreakdown:
    """Account for the bytes of a packed file.

    Raises:
        ValueError: it is no packed file of this version.
    """
    size, entries, arrays = _parsed(content)
    pieces = _pieces(entries, arrays)
    bytes_of = {name: array.nbytes for name, array in arrays.items()}
    return SizeBreakdown(
        weights=sum(int(np.prod(piece.packed.shape)) for piece in pieces),
        model_bytes=size,
        file_bytes=len(content),
        fixed_bytes=sum(len(piece.packed.indices) for piece in pieces),
        indices=bytes_of["indices"],
        codes=0,
        points=bytes_of["points"],
        scales=bytes_of["low"] + bytes_of["span"],
        integers=bytes_of["scales"],
        rest=bytes_of["rest"],
        header=len(content) - sum(bytes_of.values()),
    )


def _put(piece: StoredWeight, columns: dict[str, list[bytes]]) -> dict[str, Any]:
    """Append a piece's arrays, and return its entry."""
    packed = piece.packed
    deflated = _deflated(packed.symbols().tobytes())
    shorter = len(deflated) < len(packed.indices)
    if not packed.uniform:
        columns["points"].append(_bytes(packed.points, "<f4"))
    columns["low"].append(_bytes(packed.low, "<f4"))
    columns["span"].append(_bytes(packed.span, "<f4"))
    columns["indices"].append(deflated if shorter else packed.indices)
    entry: dict[str, Any] = {
        "name": piece.name,
        "at": piece.at,
        "shape": list(packed.shape),
        "bits": packed.bits,
        "bucket": packed.bucket,
        "even": packed.uniform,
        "code": "deflate" if shorter else "fixed",
        "bytes": len(columns["indices"][-1]),
        "axes": list(piece.axes),
        "form": piece.form,
    }
    if piece.integers is not None:
        made = piece.integers
        columns["scales"].append(_bytes(made.scale, "<f4"))
        entry |= {"axis": made.axis, "limit": made.limit, "scales": len(made.scale), "scales_at": made.scale_at}
    return entry


def _pieces(entries: Sequence[Mapping[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]) -> list[StoredWeight]:
    """The pieces in a file, which use up its arrays exactly."""
    reader = _ArrayReader(arrays)
    pieces = [_piece(entry, reader) for entry in entries]
    reader.check()
    return pieces


def _piece(entry: Mapping[str, Any], reader: _ArrayReader) -> StoredWeight:
    _check_entry(entry)
    shape, bits, bucket = tuple(entry["shape"]), entry["bits"], entry["bucket"]
    number = int(np.prod(shape))
    indices = reader.take("indices", entry["bytes"]).tobytes()
    if entry["code"] == "deflate":
        symbols = np.frombuffer(_inflated(indices, number, RAW, f"indices of {entry['name']}"), np.uint8)
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
    """Raise ``ValueError`` unless an entry says what a weight's may say."""
    wanted = KEYS | (INT8_KEYS if entry.get("form") == "int8" else set())
    if set(entry) != wanted:
        raise ValueError(f"a weight has {', '.join(sorted(entry))}; known: {', '.join(sorted(wanted))}")
    numbers = [entry[key] for key in wanted & {"at", "bits", "bucket", "bytes", "axis", "limit", "scales", "scales_at"}]
    lists = [*entry["shape"], *entry["axes"]]
    good = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in [*numbers, *lists])
    good = good and 1 <= entry["bits"] <= MOST_BITS and entry["bucket"] > 0 and 0 < np.prod(entry["shape"]) < 2**40
    good = good and sorted(entry["axes"]) == list(range(len(entry["shape"]))) and isinstance(entry["even"], bool)
    if not (good and entry["form"] in ("float32", "float16", "int8") and entry["code"] in ("fixed", "deflate")):
        raise ValueError(f"{entry['name']!r}: no weight is so")


class _ArrayReader:
    """Arrays, taken piece by piece from the front."""

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
        """Raise ``ValueError`` unless everything was taken."""
        left = [name for name, array in self._arrays.items() if self._at[name] != len(array)]
        if left:
            raise ValueError(f"{', '.join(left)}: more than its weights take")


def _rest(model: bytes, pieces: Iterable[StoredWeight]) -> bytes:
    """What is left of ``model`` without its pieces."""
    left, before = [], 0
    for start, end, content in _places(list(pieces)):
        if model[start:end] != content:
            raise ValueError(f"a weight is not at byte {start} of the model")
        left.append(model[before:start])
        before = end
    return b"".join([*left, model[before:]])


def _places(pieces: Sequence[StoredWeight]) -> list[tuple[int, int, bytes]]:
    """Begin, end and bytes of all that pieces make, in order.

    Raises:
        ValueError: two overlap.
    """
    made = [(piece.at, piece.content()) for piece in pieces]
    made += [(p.integers.scale_at, _bytes(p.integers.scale, "<f4")) for p in pieces if p.integers is not None]
    places = sorted((at, at + len(content), content) for at, content in made)
    if any(before[1] > after[0] for before, after in pairwise(places)):
        raise ValueError("two weights overlap")
    return places


def _assembled(size: int, entries: list[dict[str, Any]], arrays: Mapping[str, bytes]) -> bytes:
    offsets: dict[str, Any] = {}
    at = 0
    for name, kind in ARRAYS.items():
        end = at + len(arrays[name])
        shape = [len(arrays[name]) // np.dtype(kind).itemsize]
        offsets[name] = {"dtype": DTYPES[kind], "shape": shape, "data_offsets": [at, end]}
        at = end
    about = {"format": FORMAT, "size": str(size), "weights": _json(entries)}
    header = _json({"__metadata__": about, **offsets}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(arrays[name] for name in ARRAYS)


def _parsed(content: bytes) -> tuple[int, list[Mapping[str, Any]], dict[str, npt.NDArray[Any]]]:
    """Size of the decoded file, entries and arrays; the header is the one that ``write`` makes of them."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(LONGEST_HEADER, len(content) - 8):
        raise ValueError("it ends within its header")
    try:
        header = json.loads(content[8 : 8 + length])
        about, size = header["__metadata__"], int(header["__metadata__"]["size"])
        version = str(about["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its header is not that of a packed model") from None
    if version != FORMAT:
        raise ValueError(f"it is {version[:60]!r}, and this version reads {FORMAT!r} alone; export the model again")
    try:
        entries = json.loads(about["weights"])
        spans = {name: header[name]["data_offsets"] for name in ARRAYS}
        parts = {name: content[8 + length + start : 8 + length + end] for name, (start, end) in spans.items()}
        known = isinstance(entries, list) and all(isinstance(e, dict) for e in entries)
        canonical = known and _assembled(size, entries, parts) == content
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its header is not that of a packed model") from None
    if not canonical:
        raise ValueError(f"it is not the one form of {FORMAT!r}")
    return size, entries, {name: np.frombuffer(parts[name], kind) for name, kind in ARRAYS.items()}


def _deflated(content: bytes) -> bytes:
    """Compress by Huffman codes alone: indices of weights repeat in no pattern."""
    stream = zlib.compressobj(9, zlib.DEFLATED, RAW, 9, zlib.Z_HUFFMAN_ONLY)
    return stream.compress(content) + stream.flush()


def _inflated(packed: bytes, size: int, window_bits: int, name: str) -> bytes:
    """Decompress ``packed`` into ``size`` bytes, never more.

    Raises:
        ValueError: it is damaged, or holds another number of bytes.
    """
    stream = zlib.decompressobj(window_bits)
    try:
        content = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(f"the {name} is damaged: {error}") from None
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"the {name} is not {size} bytes")
    return content


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _bytes(array: npt.NDArray[Any], kind: str) -> bytes:
    return np.ascontiguousarray(array, kind).tobytes()
