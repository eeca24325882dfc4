"""Kinds of checkpoint files by content, and the faults of files that are none."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Literal

AGAIN = "download it again"
HEAD_BYTES = 1024
MOST_HEADER_BYTES = 2**24
"""Longest header of a safetensors file: some hundred thousand tensors; the format's own limit is 100 MB."""

OTHERS = {
    b"\x89HDF\r\n\x1a\n": "a HDF5 file, as Keras writes; convert it to a PyTorch state dict",
    b"GGUF": "a GGUF file; give the PyTorch checkpoint that it was made of",
    b"\x93NUMPY": "a numpy array; save the state dict with torch.save or safetensors",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x7fELF": "a program",
}
"""What other files begin with."""

Kind = Literal["safetensors", "torch"]


def checkpoint_kind(path: Path) -> tuple[Kind, str]:
    """Return the kind of a checkpoint file by its head, and its fault; an empty fault where there is none that it shows."""
    if os.path.isdir(path):
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"))
        return "torch", f"a folder; give a file in it{': ' + ', '.join(inside[:4]) if inside else ''}"
    if not os.path.isfile(path):  # unlike Path, no error for a name that is too long
        return "torch", "no such file"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if size == 0:
        return "torch", f"an empty file (0 bytes); {AGAIN}"
    if fault := _not_binary(head):
        return "torch", fault
    for start, words in OTHERS.items():
        if head.startswith(start):
            return "torch", words
    if head[257:262] == b"ustar":
        return "torch", "a tar archive; unpack it"
    if head.startswith(b"PK"):
        return "torch", ""
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors", _safetensors_fault(path, size)
    if not head.startswith(b"\x80"):  # the first byte of each pickle since protocol 2
        return "torch", "neither a safetensors nor a PyTorch file; save the state dict with torch.save or safetensors"
    return "torch", ""


def _not_binary(head: bytes) -> str:
    """Word the fault of a text file; empty where the head is not text."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file itself; git lfs pull"
    try:
        text = head.decode("utf-8-sig").lstrip().lower()
    except UnicodeDecodeError:
        return ""
    if text.startswith(("<!doctype", "<html", "<head", "<?xml", "<body", "<!--")):
        return "a web page (HTML) and not a checkpoint; download the file itself, signed in where that is needed"
    if text and all(character.isprintable() or character.isspace() for character in text):
        shown = " ".join(text.split())[:60]
        return f"a text file and not a checkpoint; it begins with {shown!r}; {AGAIN}"
    return ""


def zip_fault(path: Path) -> str:
    """Word the fault of a zip archive that is no checkpoint of PyTorch; empty where it is one, or no archive."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"cut off or damaged: {path.stat().st_size:,} bytes of an archive whose list of files cannot be read; {AGAIN}"
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        return "a TorchScript archive, which holds a program that is never run here; save its state_dict() alone"
    if not any(name.endswith("data.pkl") for name in names):
        return f"a zip archive without a PyTorch checkpoint; it has {', '.join(names[:4]) or 'nothing'}; unpack it"
    return ""


def _safetensors_fault(path: Path, size: int) -> str:
    """Compare the header of a safetensors file with its size."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > MOST_HEADER_BYTES:
            return f"no safetensors file: its first bytes are no length of a header; {AGAIN}"
        header = file.read(length)
    if len(header) < length:
        return f"cut off: {size:,} bytes, and its header alone takes {length + 8:,}; {AGAIN}"
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return f"damaged: its header is not that of a safetensors file; {AGAIN}"
    return f"cut off: {size:,} of {expected:,} bytes; {AGAIN}" if size < expected else ""
