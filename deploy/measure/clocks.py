"""Clock locks during a measurement: only on request, and always restored.

``jetson_clocks`` does it where it is, else every cpufreq policy's governor is set to ``performance``. The holder is a
process of its own whose standard input is a pipe from whoever asked: when that ends, however it ends, the clocks are
put back. A restart of the machine puts them back by itself.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, final

LOCKED = "locked"
WAIT_S = 60.0
GOVERNOR = "performance"


class ClocksError(Exception):
    """Failure to lock the clocks here, with the reason."""


@contextlib.contextmanager
def lock_clocks(root: Path = Path("/")) -> Iterator[None]:
    """Lock the clocks for a block.

    Raises:
        ClocksError: not permitted, or nothing here to lock; nothing is changed then.
    """
    if shutil.which("jetson_clocks"):
        with _jetson_clocks_locked():
            yield
    else:
        with _performance_governor(root):
            yield


def hold_clocks(until: IO[bytes], root: Path = Path("/")) -> int:
    """Lock the clocks, report it on stdout, restore them when ``until`` ends or at a signal; return an exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with lock_clocks(root):
            sys.stdout.write(f"{LOCKED}\n")
            sys.stdout.flush()
            with contextlib.suppress(_Stopped):
                while until.read(1):
                    continue
    except ClocksError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


@final
class ClockLock:
    """A process that locks the clocks until this one closes it or ends."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.measure.clocks", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what ends our group does not end it before it has put the clocks back
        )
        assert self._process.stdout is not None
        reply = self._process.stdout.readline().decode().strip()
        if reply != LOCKED:
            self.close()
            raise ClocksError(reply or "the process that holds the clocks died")

    def close(self) -> None:
        """Restore the clocks."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=WAIT_S)
        self._process.stdout.close()


class _Stopped(BaseException):
    """Exception for a signal that ends the lock."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


@contextlib.contextmanager
def _jetson_clocks_locked() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as scratch:
        backup = f"{scratch}/clocks"
        _jetson_clocks("--store", backup)
        try:
            _jetson_clocks()
            yield
        finally:
            _jetson_clocks("--restore", backup)


def _jetson_clocks(*arguments: str) -> None:
    sudo = ["sudo", "-n"] if shutil.which("sudo") else []
    command = [*sudo, "jetson_clocks", *arguments]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if process.returncode:
        words = (process.stderr or process.stdout).strip().splitlines()
        raise ClocksError(f"{' '.join(command)} failed: {words[-1] if words else process.returncode}")


@contextlib.contextmanager
def _performance_governor(root: Path) -> Iterator[None]:
    files = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor"))
    if not files:
        raise ClocksError("this machine shows no clocks to lock (no cpufreq, no jetson_clocks)")
    previous = {file: file.read_text() for file in files}
    changed: list[Path] = []
    try:
        for file in files:
            try:
                file.write_text(f"{GOVERNOR}\n")
            except OSError as error:
                raise ClocksError(
                    f"the governor cannot be set ({error.strerror}); locking clocks needs root there"
                ) from None
            changed.append(file)
        yield
    finally:
        for file in changed:
            file.write_text(previous[file])


if __name__ == "__main__":
    sys.exit(hold_clocks(sys.stdin.buffer, Path(sys.argv[1])))
