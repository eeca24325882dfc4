"""Devices that fail: a connection that is cut, a process that is killed, a disk that is full; and one that counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, final

from deploy.devices import CompletedCommand, Device, DeviceError
from deploy.devices.local import Local
from tests.conftest import HANG_S

CHUNK_BYTES = 64 << 10


class _Here(Device):
    """This machine with its store at ``home``; leaves say how a command runs."""

    def __init__(self, home: Path) -> None:
        self._local = Local(f"local://{home}")
        self.url = self._local.url

    def put(self, local: Path) -> str:
        return self._local.put(local)

    def get(self, remote: str, local: Path) -> None:
        self._local.get(remote, local)

    def path(self, local: Path) -> str:
        return self._local.path(local)

    def deploy_command(self) -> list[str]:
        return self._local.deploy_command()

    def start_worker(self) -> subprocess.Popen[str]:
        return self._local.start_worker()

    def forget(self, remote: str) -> None:
        self._local.forget(remote)

    def status(self) -> dict[str, Any]:
        return self._local.status()

    def clean(self) -> None:
        self._local.clean()

    def close(self) -> None:
        self._local.close()


@final
class Counting(_Here):
    """This machine; counts the bytes that commands were given."""

    sent_bytes = 0

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        assert isinstance(stdin, bytes)
        self.sent_bytes += len(stdin)
        return self._local.run(arguments, stdin=stdin, timeout_s=timeout_s)


@final
class Failing(_Here):
    """This machine behind a line of ``bytes_s``, which fails ``after_s`` seconds from the first command on.

    ``how``: "kill" ends the process there by SIGKILL; "cut" takes its streams away and leaves it to itself, as a
    connection does that is gone. From then on no command goes through.
    """

    def __init__(self, home: Path, after_s: float, how: Literal["kill", "cut"], bytes_s: float = 1e9) -> None:
        super().__init__(home)
        self._home, self._after_s, self._how, self._bytes_s = home, after_s, how, bytes_s
        self._end: float | None = None
        self.left: list[subprocess.Popen[bytes]] = []
        self.during: str | None = None

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        assert isinstance(stdin, bytes)
        if self._end is None:
            self._end = time.monotonic() + self._after_s
        if time.monotonic() >= self._end:
            raise DeviceError(f"{self.url}: no connection")
        process = _start(arguments, self._home)
        feeding = threading.Thread(target=self._feed, args=(process, stdin))
        feeding.start()
        out: list[bytes] = []
        reading = threading.Thread(target=lambda: out.append(_all(process.stdout)))
        reading.start()
        try:
            process.wait(timeout=max(self._end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self.during = arguments[arguments.index("store") + 1]
            if self._how == "kill":
                process.kill()
            feeding.join()
            self.left.append(process)
            raise DeviceError(f"{self.url}: the connection was lost") from None
        feeding.join()
        reading.join()
        return CompletedCommand(code=process.returncode, stdout=out[0].decode(), stderr=_all(process.stderr).decode())

    def settle(self) -> None:
        """Wait for what was left to itself."""
        for process in self.left:
            process.wait(timeout=HANG_S)

    def _feed(self, process: subprocess.Popen[bytes], content: bytes) -> None:
        assert process.stdin is not None and self._end is not None
        try:
            for start in range(0, len(content), CHUNK_BYTES):
                if time.monotonic() >= self._end:
                    break
                process.stdin.write(content[start : start + CHUNK_BYTES])
                process.stdin.flush()
                time.sleep(CHUNK_BYTES / self._bytes_s)
            process.stdin.close()
        except BrokenPipeError:
            pass


@final
class Answering(_Here):
    """This machine, whose device side says ``words`` to everything."""

    def __init__(self, home: Path, words: str) -> None:
        super().__init__(home)
        self._words = words

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        return CompletedCommand(code=0, stdout=self._words, stderr="")


@final
class Cramped(_Here):
    """This machine, where no file may grow beyond ``most_bytes``, as on a disk that is full."""

    def __init__(self, home: Path, most_bytes: int) -> None:
        super().__init__(home)
        self._most_bytes = most_bytes

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        limited = ["prlimit", f"--fsize={self._most_bytes}", *arguments]
        return self._local.run(limited, stdin=stdin, timeout_s=timeout_s)


def _start(arguments: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(list(arguments), env={**os.environ, "PYTHONPATH": path, "EDGE_HOME": str(home)}, **streams)


def _all(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return stream.read()
