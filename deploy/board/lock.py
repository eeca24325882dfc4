"""The lock of a board: its owner, since when, and its last heartbeat.

The holder writes the machine's own clock since boot and the boot's id into the file every few seconds. A lock whose
beat is old, or of another boot, is nobody's. It lies in /tmp, for a board may have several users.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, final

from profiles.errors import one_line
from profiles.json_text import parse_json

FILE = "edge-compress.lock"
BEAT_S = 5.0
STALE_S = 60.0
PATIENCE_S, POLL_S = 20.0, 0.01
MOST_BYTES = 1 << 16
MOST_TEXT = 400


class LockError(Exception):
    """A lock that another live run holds."""


@dataclass(frozen=True, kw_only=True)
class LockRecord:
    """The content of the lock's file; times are seconds on the board's clock since boot."""

    owner: str
    who: str
    boot: str
    since: float
    beat: float

    @property
    def is_stale(self) -> bool:
        return self.boot != boot_id() or abs(time.monotonic() - self.beat) > STALE_S

    def describe(self) -> str:
        """Describe the owner, for how long, and when last seen."""
        now = time.monotonic()
        return f"{self.who}, for {_duration(now - self.since)}, last seen {_duration(now - self.beat)} ago"


@final
class Lock:
    """The lock in ``folder``, for one owner."""

    def __init__(self, folder: Path, owner: str, who: str) -> None:
        self._file, self._owner, self._who = folder / FILE, owner, who
        self._stop = threading.Event()

    def take(self) -> bool:
        """Take or renew the lock and keep its heartbeat; return whether it was not ours before.

        Raises:
            LockError: a run that is alive has it.
        """
        with self._opened() as file:
            held = _parsed(file)
            mine = held is not None and held.owner == self._owner
            if held is not None and not mine and not held.is_stale:
                raise LockError(held.describe())
            self._write(file, held.since if held is not None and mine else time.monotonic())
        threading.Thread(target=self._keep, daemon=True).start()
        return not mine

    def release(self) -> None:
        """Release the lock if it is ours."""
        self._stop.set()
        with self._opened() as file:
            held = _parsed(file)
            if held is not None and held.owner == self._owner:
                file.seek(0)
                file.truncate()

    def beat(self) -> bool:
        """Write a heartbeat; return False when the lock is no longer its owner's."""
        with self._opened() as file:
            held = _parsed(file)
            if held is None or held.owner != self._owner or self._stop.is_set():
                return False
            self._write(file, held.since)
        return True

    def _keep(self) -> None:
        alive = True
        while alive and not self._stop.wait(BEAT_S):
            with contextlib.suppress(OSError):
                alive = self.beat()

    def _write(self, file: IO[str], since: float) -> None:
        held = LockRecord(owner=self._owner, who=self._who, boot=boot_id(), since=since, beat=time.monotonic())
        file.seek(0)
        file.truncate()
        file.write(json.dumps(asdict(held)))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        """Open the lock's file exclusively. It is written in place: in /tmp it may be another user's."""
        with contextlib.suppress(FileExistsError), self._file.open("x") as new_file:
            os.fchmod(new_file.fileno(), 0o666)
        with _regular(self._file, os.O_RDWR) as file:
            _hold(file, shared=False)
            yield file


def read(folder: Path) -> LockRecord | None:
    """Read the lock, stale or not; None when there is none."""
    try:
        with _regular(folder / FILE, os.O_RDONLY) as file:
            _hold(file, shared=True)
            return _parsed(file)
    except OSError:
        return None


def _regular(path: Path, flags: int) -> IO[str]:
    """Open a file that is one: what another user put there must neither lead elsewhere nor keep who opens it waiting.

    Raises:
        OSError: it is a link, a pipe or the like.
    """
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "no file, but a pipe or a device", str(path))
    return os.fdopen(opened, "r" if flags == os.O_RDONLY else "r+")


def _hold(file: IO[str], *, shared: bool) -> None:
    """Lock an open file until it is closed. Boards are POSIX; on hosts that are not, this module is only imported.

    Raises:
        OSError: another process has held it for ``PATIENCE_S``, though a record is written in no time.
    """
    import fcntl

    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


def _parsed(file: IO[str]) -> LockRecord | None:
    file.seek(0)
    try:
        return _checked(LockRecord(**parse_json(file.read(MOST_BYTES))))
    except (ValueError, TypeError):
        return None


def _checked(held: LockRecord) -> LockRecord:
    """Return what is a record indeed: in /tmp any user of the board may write the file.

    Raises:
        ValueError: it holds something else.
    """
    numbers = (held.since, held.beat)
    if not all(isinstance(number, (int, float)) and abs(number) < 1e12 for number in numbers):
        raise ValueError("times of a lock are numbers")
    if not all(isinstance(text, str) for text in (held.owner, held.who, held.boot)):
        raise ValueError("names in a lock are texts")
    return replace(held, who=one_line(held.who, MOST_TEXT))


def boot_id() -> str:
    """Return an id that changes when the machine starts again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _duration(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"
