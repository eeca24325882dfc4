"""Content-addressed files on a board, by SHA-256: there whole or not at all, and never sent twice.

parts/DIGEST         what has come of a file so far
blobs/DIGEST         a whole file: synced and verified, then renamed to here
trees/DIGEST/NAME    files under the names that programs want, linked to their blobs
work/OWNER/          what the device makes itself
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from deploy.board.root import claim
from deploy.board.wire import CHUNK_BYTES
from deploy.files import FULL, UnsafeNameError, remove_below, safe_path, sha256, sync
from profiles.json_text import read_json

FOLDERS = ("parts", "blobs", "trees", "work", "jobs")
KEPT_DAYS = 7


class StoreError(Exception):
    """A file that cannot be kept: the disk is full, it was altered in transit, or its name leads out of its folder."""


@final
class Store:
    """The files under one folder, for one client at a time (the board's lock)."""

    def __init__(self, root: Path) -> None:
        """Make the folders of ``root``, which is new, empty or ours.

        Raises:
            ForeignRootError: it is another's.
        """
        self.root = root
        claim(root)
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)

    def missing(self, digests: Iterable[str]) -> dict[str, int]:
        """Return those of ``digests`` that are not here whole, and how many bytes of each are."""
        sizes: dict[str, int] = {}
        for digest in digests:
            if self._blob(digest).exists():
                os.utime(self._blob(digest))
            else:
                part = self._part(digest)
                sizes[digest] = part.stat().st_size if part.exists() else 0
        return sizes

    def append(self, digest: str, offset: int, size: int, chunks: Iterable[bytes]) -> None:
        """Write ``chunks`` to a file from ``offset`` on; ``size`` is its final size. All chunks are received.

        Raises:
            StoreError: the disk is full; what had come is removed.
        """
        if self._blob(digest).exists():
            for _ in chunks:
                continue
            return
        part, failed = self._part(digest), self._no_room(size - offset)
        with part.open("ab") as file:
            file.truncate(offset)
            for chunk in chunks:
                if failed is None:
                    try:
                        file.write(chunk)
                        file.flush()
                    except OSError as error:
                        failed = error
        if failed is not None:
            part.unlink()
            if failed.errno in FULL:
                free = shutil.disk_usage(self.root).free
                raise StoreError(
                    f"the disk is full: a file of {size} bytes does not fit under {self.root} ({free} bytes are free); "
                    "nothing of it was kept"
                )
            raise failed

    def finish(self, digest: str) -> None:
        """Verify a received file, and make it a blob.

        Raises:
            StoreError: it is another file; it is removed.
        """
        part = self._part(digest)
        if not part.exists() and self._blob(digest).exists():
            return
        if (arrived := sha256(part)) != digest:
            part.unlink()
            raise StoreError(
                f"a file was altered on its way: sent as {digest[:12]}, arrived as {arrived[:12]}; it was removed"
            )
        sync(part)
        part.chmod(0o444)
        part.rename(self._blob(digest))
        sync(self.root / "blobs")

    def tree(self, entries: Mapping[str, str]) -> str:
        """Make a folder with the blobs of ``entries`` (path -> digest) under those paths."""
        key = hashlib.sha256(json.dumps(dict(entries), sort_keys=True).encode()).hexdigest()
        folder = self.root / "trees" / key
        if folder.is_dir():
            os.utime(folder)
            return str(folder)
        part = self.root / "parts" / f"tree-{key}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, digest in entries.items():
            target = _inside(part, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self._blob(digest), target)
        (self.root / "trees" / f"{key}.json").write_text(json.dumps(dict(entries)))
        for subfolder in (*(p for p in part.rglob("*") if p.is_dir()), part):
            sync(subfolder)
        part.rename(folder)
        sync(self.root / "trees")
        return str(folder)

    def listing(self, path: Path) -> list[dict[str, Any]]:
        """List the files of a folder, or one file: path, size, digest. Those of a folder become blobs.

        Raises:
            FileNotFoundError: there is no such path.
        """
        path.lstat()
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        entries = []
        for file in files:
            digest = sha256(file)
            is_made_here = self.root / "work" in file.parents and not file.is_symlink()
            if path.is_dir() and is_made_here and not self._blob(digest).exists():
                with contextlib.suppress(OSError):
                    file.chmod(0o444)
                    os.link(file, self._blob(digest))
            name = str(file.relative_to(path)) if path.is_dir() else ""
            entries.append({"path": name, "size": file.stat().st_size, "sha256": digest})
        return entries

    def read(self, path: Path, offset: int) -> Iterator[bytes]:
        """Yield the chunks of a file from ``offset`` on."""
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def forget(self, path: Path) -> None:
        """Remove a tree, or a file or folder under ``work``; nothing else."""
        for parent in ("trees", "work"):
            base = self.root / parent
            if base not in path.parents:
                continue
            top = base / path.relative_to(base).parts[0] if parent == "trees" else path
            if ".." not in path.parts and remove_below(base, top) and parent == "trees":
                self._forget_blobs(top)

    def sweep(self, now: float | None = None) -> None:
        """Remove the products of finished runs, and files unused for ``KEPT_DAYS``."""
        oldest = (now or time.time()) - KEPT_DAYS * 86400
        for folder in ("work", "parts", "blobs", "trees"):
            for entry in (self.root / folder).iterdir():
                if folder == "work" or entry.lstat().st_mtime < oldest:
                    remove_below(self.root / folder, entry)

    def size_bytes(self) -> dict[str, int]:
        """Return bytes on disk by top-level folder; a file with two links counts once."""
        seen: set[int] = set()
        sizes: dict[str, int] = {}
        for top in sorted(self.root.iterdir()):
            total = 0
            for file in [top, *top.rglob("*")] if top.is_dir() else [top]:
                about = file.lstat()
                if not file.is_dir() and about.st_ino not in seen:
                    seen.add(about.st_ino)
                    total += about.st_size
            sizes[top.name] = total
        return sizes

    def _forget_blobs(self, tree: Path) -> None:
        manifest = tree.with_name(tree.name + ".json")
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, StoreError):  # a damaged list names nothing
            for digest in read_json(manifest).values():
                blob = self._blob(digest)
                if blob.exists() and blob.stat().st_nlink == 1:
                    remove_below(self.root / "blobs", blob)
        remove_below(self.root / "trees", manifest)

    def _no_room(self, wanted: int) -> OSError | None:
        if shutil.disk_usage(self.root).free < wanted:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / _checked(digest)

    def _part(self, digest: str) -> Path:
        return self.root / "parts" / _checked(digest)


def _checked(digest: str) -> str:
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise StoreError(f"{digest!r} is no SHA-256")
    return digest


def _inside(folder: Path, name: str) -> Path:
    try:
        return safe_path(folder, name)
    except UnsafeNameError as error:
        raise StoreError(f"{name!r} leads out of its folder: {error}") from None


def _link(blob: Path, target: Path) -> None:
    """Link a blob under a second name; copy it where the file system has no links."""
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)
        sync(target)
