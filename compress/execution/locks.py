"""Locks of files: one holder each, known by name; they go with the process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from compress.execution import distributed
from profiles.errors import UserError, one_line

LOCK = ".writer.lock"
MOST_COMMAND = 120
"""Characters of a command line that are shown."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that know no locks: what is there is written without one."""


class HeldError(Exception):
    """A lock that another process holds; says which."""


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made, says who holds it, and is removed at the end.

    Args:
        waiting: is told who holds it, before it is waited for; without one it is not waited for.

    Raises:
        HeldError: another process, or another thread of this one, holds it.
    """
    file = _taken(path, waiting)
    try:
        with contextlib.suppress(OSError):  # a full disk
            _write_owner(file)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for this file finds that it is no longer there
        file.close()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only one who writes results to ``folder``; every process of a distributed run calls it.

    Raises:
        UserError: another process writes there; says which, for how long, and what to do. Or nobody can.
    """
    with contextlib.ExitStack() as stack:
        fault = ""
        if distributed.is_main():
            try:
                stack.enter_context(locked(folder / LOCK))
            except HeldError as error:
                fault = f"{folder} is being written to by {error}; wait until that has ended, or give another folder (--out)"
            except OSError as error:
                fault = f"{folder} cannot be written to ({error.strerror}); give another folder"
        if fault := distributed.from_main(fault):
            raise UserError(fault)
        yield


def _taken(path: Path, waiting: Callable[[str], None] | None) -> IO[str]:
    """Open and lock the file; again where the one that was waited for has been removed."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                owner = _owner(file)
                if waiting is None:
                    file.close()
                    raise HeldError(owner) from None
                waiting(owner)
                fcntl.flock(file, fcntl.LOCK_EX)
            elif error.errno not in UNSUPPORTED:
                file.close()
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _write_owner(file: IO[str]) -> None:
    command = " ".join(shlex.quote(each) for each in [Path(sys.argv[0]).name, *sys.argv[1:]])
    owner = {"pid": os.getpid(), "host": platform.node(), "since": time.time(), "command": command[:1000]}
    file.truncate(0)
    file.write(json.dumps(owner))
    file.flush()


def _owner(file: IO[str]) -> str:
    """Word who holds a lock, from what its file says."""
    file.seek(0)
    try:
        held: dict[str, Any] = json.loads(file.read(4096))
        seconds = max(0, int(time.time() - float(held["since"])))
        age = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
        where = "" if held["host"] == platform.node() else f" on {one_line(str(held['host']), 60)}"
        command = one_line(str(held["command"]), MOST_COMMAND)
        return f"process {int(held['pid'])}{where} ({command}), for {age}"
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
