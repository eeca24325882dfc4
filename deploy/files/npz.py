"""Foreign .npz and .npy files: plain arrays, read within bounds that their own files set.

Numpy takes the shape that a header states as room to be made, and zip entries unpack to a thousand times their size. Here
what is stated is compared with what is there before anything is read.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

MAGIC = b"\x93NUMPY"
MOST_ARRAYS = 1024
MOST_TIMES = 100
"""Times the size of its file that all arrays together may have; where they are more than ``SMALL_BYTES``."""

SMALL_BYTES = 2**28
Arrays = dict[str, npt.NDArray[Any]]


class ArraysError(ValueError):
    """A file that holds no plain arrays, or more than it may; says why in words that follow its name."""


def array_names(path: Path) -> list[str]:
    """List the arrays of a .npz file; what they state is checked.

    Raises:
        ArraysError: it is none, it holds other things or too much, or an array states another size than it has.
        OSError: it cannot be opened.
    """
    with _refused():
        return _checked_names(path)


def read_arrays(path: Path, names: Collection[str] | None = None) -> Arrays:
    """Read the arrays of a .npz file by name; all of them without ``names``.

    Raises:
        ArraysError, OSError: as ``array_names``; arrays of objects are refused, which are pickles.
    """
    held = array_names(path)
    with _refused(), np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in (held if names is None else names)}


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a .npy file of one array.

    Raises:
        ArraysError, OSError: as ``array_names``.
    """
    with _refused():
        with path.open("rb") as file:
            _check_stated(file, path.stat().st_size, "it")
        return np.asarray(np.load(path, allow_pickle=False))


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Word what numpy and zipfile say to a file that they do not read; what cannot be opened is said by the system."""
    try:
        yield
    except (ArraysError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except MemoryError:
        raise ArraysError("holds more than there is memory for") from None
    except Exception as error:  # of a damaged archive anything may come: zlib.error, NotImplementedError, struct.error
        if "allow_pickle" in str(error):
            words = "holds no plain arrays but objects, which numpy keeps as pickles that could run code"
            raise ArraysError(words) from None
        raise ArraysError(f"is damaged ({_line(error)})") from None


def _checked_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise ArraysError("holds one array; store arrays together with np.savez")
    if not zipfile.is_zipfile(path):
        raise ArraysError("is no .npz file; store arrays together with np.savez")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ARRAYS:
            raise ArraysError(f"holds {len(entries):,} arrays; at most {MOST_ARRAYS:,} are read")
        stated = sum(entry.file_size for entry in entries)
        most = max(SMALL_BYTES, MOST_TIMES * path.stat().st_size)
        if stated > most:
            raise ArraysError(f"unpacks to {stated:,} bytes, more than {MOST_TIMES} times its size; store it with np.savez")
        arrays = [entry for entry in entries if entry.filename.endswith(".npy")]
        for entry in arrays:
            with archive.open(entry) as member:
                _check_stated(member, entry.file_size, ascii(entry.filename[:60]))
    return [entry.filename.removesuffix(".npy") for entry in arrays]


def _check_stated(file: IO[bytes], size: int, name: str) -> None:
    """Compare the size that an array's header states with that of its file.

    Raises:
        ArraysError: they differ, or it is no array of numbers or text.
    """
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ArraysError(f"holds no plain arrays: {name} has a header of version {version[0]}.{version[1]}")
        shape, _, kind = readers[version](file)
    except ArraysError:
        raise
    except Exception as error:  # a header is Python's syntax, whose parser raises what it likes
        raise ArraysError(f"holds no plain arrays: {name} has no header of numpy ({_line(error)})") from None
    if kind.hasobject:  # of any size; it is never read
        return
    if any(side < 0 for side in shape) or math.prod(shape) * kind.itemsize != size - file.tell():
        raise ArraysError(f"is damaged: {name} states a shape of {shape}, and its {size:,} bytes are of another")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
