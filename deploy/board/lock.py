"""One board, one run: who has it, since when, and when that was last true.

The holder writes the machine's own clock since boot and the boot's id into the file every few seconds. A lock whose
beat is old, or of another boot, is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

FILE = "lock.json"
BEAT_S = 5.0
STALE_S = 60.0


class LockError(Exception):
    """Another run has the board."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lock as its file tells it; times are seconds on the board's clock since boot."""

    owner: str
    who: str
    boot: str
    since: float
    beat: float

    @property
    def is_stale(self) -> bool:
        return self.boot != boot_id() or time.monotonic() - self.beat > STALE_S

    def told(self) -> str:
        """Who, for how long, and when last seen."""
        now = time.monotonic()
        return f"{self.who}, for {_duration(now - self.since)}, last seen {_duration(now - self.beat)} ago"


@final
class Lock:
    """The lock of one folder, for one owner."""

    def __init__(self, root: Path, owner: str, who: str) -> None:
        self._file, self._owner, self._who = root / FILE, owner, who
        self._stop = threading.Event()

    def take(self) -> bool:
        """Take it or take it again, and keep it alive from now on; returns whether it was somebody else's before.

        Raises:
            LockError: a run that is alive has it.
        """
        with self._guarded():
            held = read(self._file.parent)
            mine = held is not None and held.owner == self._owner
            if held is not None and not mine and not held.is_stale:
                raise LockError(held.told())
            self._write(held.since if held is not None and mine else time.monotonic())
        threading.Thread(target=self._keep, daemon=True).start()
        return not mine

    def release(self) -> None:
        """Give it back if it is ours."""
        self._stop.set()
        with self._guarded():
            held = read(self._file.parent)
            if held is not None and held.owner == self._owner:
                self._file.unlink(missing_ok=True)

    def beat(self) -> bool:
        """Say that the owner is alive; False when the lock is no longer its own."""
        with self._guarded():
            held = read(self._file.parent)
            if held is None or held.owner != self._owner or self._stop.is_set():
                return False
            self._write(held.since)
        return True

    def _keep(self) -> None:
        alive = True
        while alive and not self._stop.wait(BEAT_S):
            with contextlib.suppress(OSError):
                alive = self.beat()

    def _write(self, since: float) -> None:
        held = Held(owner=self._owner, who=self._who, boot=boot_id(), since=since, beat=time.monotonic())
        part = self._file.with_suffix(f".part-{os.getpid()}")
        part.write_text(json.dumps(asdict(held)))
        part.rename(self._file)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._file.with_suffix(".guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def read(root: Path) -> Held | None:
    """The lock as it stands, stale or not; None when there is none."""
    try:
        return Held(**json.loads((root / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def boot_id() -> str:
    """What changes when the machine starts again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


def _duration(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"
