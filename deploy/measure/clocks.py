"""Clocks held still while something is measured, only when asked, and put back whatever happens.

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
    """The clocks cannot be locked here; says why."""


@contextlib.contextmanager
def locked(root: Path = Path("/")) -> Iterator[None]:
    """Hold the clocks for a block.

    Raises:
        ClocksError: not permitted, or nothing here to lock; nothing is changed then.
    """
    if shutil.which("jetson_clocks"):
        with _jetson():
            yield
    else:
        with _governors(root):
            yield


def hold(until: IO[bytes], root: Path = Path("/")) -> int:
    """Lock, say so on standard output, and put back when ``until`` ends or a signal comes; the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with locked(root):
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
class Holder:
    """A process that holds the clocks until this one closes it or is gone."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.measure.clocks", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what ends our group does not end it before it has put the clocks back
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode().strip()
        if said != LOCKED:
            self.close()
            raise ClocksError(said or "the process that holds the clocks died")

    def close(self) -> None:
        """Put the clocks back."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=WAIT_S)
        self._process.stdout.close()


class _Stopped(BaseException):
    """A signal came."""


def _stop(number: int, frame: object) -> None:
    raise _Stopped


@contextlib.contextmanager
def _jetson() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as scratch:
        kept = f"{scratch}/clocks"
        _jetson_clocks("--store", kept)
        try:
            _jetson_clocks()
            yield
        finally:
            _jetson_clocks("--restore", kept)


def _jetson_clocks(*arguments: str) -> None:
    sudo = ["sudo", "-n"] if shutil.which("sudo") else []
    command = [*sudo, "jetson_clocks", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise ClocksError(f"{' '.join(command)} failed: {words[-1] if words else done.returncode}")


@contextlib.contextmanager
def _governors(root: Path) -> Iterator[None]:
    files = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor"))
    if not files:
        raise ClocksError("this machine shows no clocks to lock (no cpufreq, no jetson_clocks)")
    kept = {file: file.read_text() for file in files}
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
            file.write_text(kept[file])


if __name__ == "__main__":
    sys.exit(hold(sys.stdin.buffer, Path(sys.argv[1])))
