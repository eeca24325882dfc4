"""Locks of files: one holder each, known by name; they go with the process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.execution import distributed
from profiles.errors import UserError, one_line
from profiles.json_text import parse_json

LOCK = ".writer.lock"
POLL_S = 0.02
MOST_COMMAND = 120
"""Characters of a command line that are shown."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that know no locks: what is there is written without one."""


class HeldError(Exception):
    """A lock that another process holds; says which."""


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None] | None = None, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is made, says who holds it, and is removed at the end.

    Args:
        waiting: is told who holds it, before it is waited for; without one it is waited for ``patience_s``.

    Raises:
        HeldError: another process, or another thread of this one, holds it.
    """
    lock = _taken(path, waiting, patience_s)
    try:
        with contextlib.suppress(OSError):  # a full disk; Windows lets nobody write to a locked file
            _write_owner(path)
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who waits finds that it is no longer there. Windows: it stays
            path.unlink()
        lock.release()


@contextlib.contextmanager
def only_writer(folder: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Be the only one who writes results to ``folder``; every process of a distributed run calls it.

    Args:
        patience_s: how long another one is waited for.

    Raises:
        UserError: another process writes there; says which, for how long, and what to do. Or nobody can.
    """
    with contextlib.ExitStack() as stack:
        fault = ""
        if distributed.is_main():
            try:
                stack.enter_context(locked(folder / LOCK, patience_s=patience_s))
            except HeldError as error:
                fault = f"{folder} is being written to by {error}; wait until that has ended, or give another folder (--out)"
            except OSError as error:
                fault = f"{folder} cannot be written to ({error.strerror}); give another folder"
        if fault := distributed.from_main(fault):
            raise UserError(fault)
        yield


def _taken(path: Path, waiting: Callable[[str], None] | None, patience_s: float) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0 if waiting else patience_s, poll_interval=POLL_S)
    except Timeout:
        owner = _owner(path)
        if waiting is None:
            raise HeldError(owner) from None
        waiting(owner)
        lock.acquire(poll_interval=POLL_S)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return lock


def _write_owner(path: Path) -> None:
    command = " ".join(shlex.quote(each) for each in [Path(sys.argv[0]).name, *sys.argv[1:]])
    owner = {"pid": os.getpid(), "host": platform.node(), "since": time.time(), "command": command[:1000]}
    path.write_text(json.dumps(owner))


def _owner(path: Path) -> str:
    """Word who holds a lock, from what its file says."""
    try:
        with path.open() as file:
            held: dict[str, Any] = parse_json(file.read(4096))
        seconds = max(0, int(time.time() - float(held["since"])))
        age = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
        where = "" if held["host"] == platform.node() else f" on {one_line(str(held['host']), 60)}"
        command = one_line(str(held["command"]), MOST_COMMAND)
        return f"process {int(held['pid'])}{where} ({command}), for {age}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
