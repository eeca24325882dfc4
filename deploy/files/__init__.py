"""Durable file operations (written beside and renamed, synced, linked, switched), and checks of names from outside.

Standard library only, without imports of our own: its text is also sent to a board that has none of our code yet.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import unicodedata
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or a share of it, that has no room left."""
MOST_PATH_BYTES, MOST_NAME_BYTES = 1024, 240
DEVICE_NAMES = {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
NUMBERED_DEVICES = ("com", "lpt")
BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class UnsafeNameError(ValueError):
    """A file's name, given by another machine or an archive, that may not be used here; says why."""


def name_fault(name: object) -> str | None:
    """Return why ``name`` may not be the path of a file below a folder; None where it may.

    Allowed: a relative path of at most ``MOST_PATH_BYTES`` in UTF-8, its parts separated by ``/``, each at most
    ``MOST_NAME_BYTES``, none of them ``.`` or ``..``, without control characters and backslashes; and no part that
    Windows takes for a device or a drive, or alters (``CON``, ``nul.txt``, ``C:``, a dot or space at its end).
    """
    if not isinstance(name, str):
        return "it is no text"
    if not name or any(c == "\\" or c in BIDIRECTIONAL or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "it is empty, or holds a control character or a backslash"
    if len(name.encode()) > MOST_PATH_BYTES:
        return f"it is longer than {MOST_PATH_BYTES} bytes"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "it is not a plain path below its folder"
        if len(part.encode()) > MOST_NAME_BYTES:
            return f"a part of it is longer than {MOST_NAME_BYTES} bytes"
        if part[-1] in ". " or part[1:2] == ":" or _is_device(part):
            return f"{part!r} means something else than a file on some systems"
    return None


def safe_path(folder: Path, name: object) -> Path:
    """Return the path of ``name``, which came from outside, below ``folder``; nothing on the way there is a link.

    Raises:
        UnsafeNameError: it leads out of ``folder``, through a link, or is no name for a file (``name_fault``).
    """
    fault = name_fault(name)
    if fault is not None:
        raise UnsafeNameError(f"{ascii(name)[:80]} is no name for a file: {fault}")
    path = folder
    for part in str(name).split("/"):
        path = path / part
        if path.is_symlink():
            raise UnsafeNameError(f"{ascii(name)[:80]} leads through a link out of its folder")
    return path


def remove_below(folder: Path, path: Path) -> bool:
    """Remove the file or folder ``path`` below ``folder``; return False, and remove nothing, where it is not below it.

    A link is removed, never followed: with a link on the way to ``path``, or for ``folder`` itself, nothing is removed.
    """
    try:
        parts = path.relative_to(folder).parts
    except ValueError:
        return False
    if not parts or ".." in parts or folder.is_symlink():
        return False
    if any(folder.joinpath(*parts[:depth]).is_symlink() for depth in range(1, len(parts))):
        return False
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return True


def _is_device(part: str) -> bool:
    stem = part.split(".")[0].rstrip().lower()
    numbered = len(stem) == 4 and stem[:3] in NUMBERED_DEVICES and stem[3] in "0123456789\u00b9\u00b2\u00b3"
    return stem in DEVICE_NAMES or numbered


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``; after a crash or a full disk it holds the old bytes or the new ones."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def allocate(file: IO[bytes], size: int, where: Path) -> None:
    """Reserve disk blocks for the first ``size`` bytes of a file, whose content stays: writing to a map cannot fail then.

    Raises:
        OSError: there is no room (``ENOSPC``); says what is needed for ``where``, and what is free.
    """
    try:
        if not hasattr(os, "posix_fallocate"):
            _write_through(file, size)
        elif size:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(where if where.is_dir() else where.parent).free
        needed = f"{where} takes {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free"
        raise OSError(errno.ENOSPC, needed) from None


def _write_through(file: IO[bytes], size: int) -> None:
    """Write a file's content over itself, zeros behind it: holes become blocks."""
    for offset in range(0, size, CHUNK_BYTES):
        file.seek(offset)
        chunk = file.read(min(CHUNK_BYTES, size - offset))
        file.seek(offset)
        file.write(chunk.ljust(min(CHUNK_BYTES, size - offset), b"\0"))
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring the content of a file, or what a folder lists, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below ``folder`` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def link_or_copy(source: Path, target: Path) -> None:
    """Put the content of ``source`` at ``target``: a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def switch_link(link: Path, target: str) -> None:
    """Point the symbolic link ``link`` at ``target``: at every moment it leads to the old one or to the new one."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    os.symlink(target, fresh)
    os.replace(fresh, link)
    sync(link.parent)
