"""The layout of a model.packed file: a safetensors file of six arrays, and its streams."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

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
LONGEST_HEADER = 100 << 20
RAW = -zlib.MAX_WBITS
"""Of a DEFLATE stream without zlib's header and checksum."""


def assemble(size: int, entries: list[dict[str, Any]], arrays: Mapping[str, bytes]) -> bytes:
    """Assemble a file of the size of what it decodes to, the entries of the weights, and the arrays."""
    offsets: dict[str, Any] = {}
    at = 0
    for name, kind in ARRAYS.items():
        end = at + len(arrays[name])
        shape = [len(arrays[name]) // np.dtype(kind).itemsize]
        offsets[name] = {"dtype": DTYPES[kind], "shape": shape, "data_offsets": [at, end]}
        at = end
    metadata = {"format": FORMAT, "size": str(size), "weights": _json(entries)}
    header = _json({"__metadata__": metadata, **offsets}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(arrays[name] for name in ARRAYS)


def parse(content: bytes) -> tuple[int, list[Mapping[str, Any]], dict[str, npt.NDArray[Any]]]:
    """Parse size of the decoded file, entries and arrays; only the header that ``assemble`` makes of them is accepted.

    Raises:
        ValueError: it is no such file, with the reason.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(LONGEST_HEADER, len(content) - 8):
        raise ValueError("it ends within its header")
    try:
        header = json.loads(content[8 : 8 + length])
        metadata, size = header["__metadata__"], int(header["__metadata__"]["size"])
        version = str(metadata["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its header is not that of a packed model") from None
    if version != FORMAT:
        raise ValueError(f"it is {version[:60]!r}, and this version reads {FORMAT!r} alone; export the model again")
    try:
        entries = json.loads(metadata["weights"])
        spans = {name: header[name]["data_offsets"] for name in ARRAYS}
        parts = {name: content[8 + length + start : 8 + length + end] for name, (start, end) in spans.items()}
        known = isinstance(entries, list) and all(isinstance(e, dict) for e in entries)
        canonical = known and assemble(size, entries, parts) == content
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its header is not that of a packed model") from None
    if not canonical:
        raise ValueError(f"it is not the one form of {FORMAT!r}")
    return size, entries, {name: np.frombuffer(parts[name], kind) for name, kind in ARRAYS.items()}


def deflate(content: bytes) -> bytes:
    """Compress by Huffman codes alone: indices of weights repeat in no pattern."""
    stream = zlib.compressobj(9, zlib.DEFLATED, RAW, 9, zlib.Z_HUFFMAN_ONLY)
    return stream.compress(content) + stream.flush()


def inflate(packed: bytes, size: int, window_bits: int, name: str) -> bytes:
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
