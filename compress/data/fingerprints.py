"""Hashes of files by content, cached between runs by size and modification time.

Keys of steps hash data by content, so that touching, copying or moving a data set changes no key and a changed image
does. Reading a large data set at every start would cost minutes; so a file is read once, and its hash kept with its size
and time of change (nanoseconds), in ``digests/`` beside the steps of ``compress run`` ($COMPRESS_STEPS, or
``runs/.steps``). Where that folder is not there or not writable, each process reads the files anew. What this cannot see:
a file changed with its size and time put back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from profiles.json_text import read_json

SETTLED_NS = 2_000_000_000
"""A file changed this shortly ago could change again within the resolution of its time, so it is not remembered."""

Kept = dict[str, tuple[int, int, str]]
"""Size in bytes, time of change in nanoseconds and hash of the file of that name."""


@cache
def thread_pool() -> ThreadPoolExecutor:
    """Return a shared thread pool with a thread per core: decoding and hashing release the interpreter's lock."""
    return ThreadPoolExecutor(core_count(), thread_name_prefix="data")


def core_count() -> int:
    """Return the number of cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_digests(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash each named file under ``root`` by content."""
    memory = _memory(root)
    known, now_ns = _recall(memory), time.time_ns()
    stats = {name: (root / name).stat() for name in names}
    fresh = {name: (about.st_size, about.st_mtime_ns, "") for name, about in stats.items()}
    unread = [name for name, entry in fresh.items() if known.get(name, ())[:2] != entry[:2]]

    def read(some: list[str]) -> dict[str, str]:
        return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in some}

    digests = {name: known[name][2] for name in fresh.keys() - set(unread)}
    for part in thread_pool().map(read, [unread[start :: core_count()] for start in range(core_count())]):
        digests |= part
    settled = {name: (*fresh[name][:2], digests[name]) for name in unread if now_ns - fresh[name][1] > SETTLED_NS}
    if memory is not None and settled:
        _remember(memory, {**known, **settled})
    return digests


def _memory(root: Path) -> Path | None:
    steps = Path(os.environ.get("COMPRESS_STEPS", "runs/.steps"))
    if not steps.is_dir() or not os.access(steps, os.W_OK):
        return None
    return steps / "digests" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:20]}.json"


def _recall(memory: Path | None) -> Kept:
    if memory is None or not memory.is_file():
        return {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = {name: (size, changed, digest) for name, (size, changed, digest) in read_json(memory).items()}
        return {name: entry for name, entry in kept.items() if isinstance(entry[2], str)}
    return {}  # what a full disk left of it: the files are read anew


def _remember(memory: Path, kept: Kept) -> None:
    """Whole or not at all: runs that start together write the same."""
    memory.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
        json.dump(kept, file)
    Path(file.name).replace(memory)
