"""Run a command that talks with a device, and hold no more of what it says than there should be."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

from deploy.devices.base import DeviceError

MOST_OUTPUT_BYTES = 1 << 25
READ_BYTES = 1 << 16


def run(command: Sequence[str], given: IO[bytes] | bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run a local command to its end, ``given`` as its standard input.

    Raises:
        subprocess.TimeoutExpired: it took longer; it was ended.
        DeviceError: it said more than ``MOST_OUTPUT_BYTES``; it was ended.
        FileNotFoundError: there is no such program.
    """
    end = time.monotonic() + timeout_s
    stdin = subprocess.PIPE if isinstance(given, bytes) else given
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        said: tuple[list[bytes], list[bytes]] = ([], [])
        threads = [
            threading.Thread(target=_read, args=(process, stream, parts), daemon=True)
            for stream, parts in zip((process.stdout, process.stderr), said, strict=True)
        ]
        if isinstance(given, bytes):
            threads.append(threading.Thread(target=_feed, args=(process, given), daemon=True))
        try:
            for thread in threads:
                thread.start()
            process.wait(max(end - time.monotonic(), 0))
            for thread in threads:  # what it left running may hold its streams
                thread.join(max(end - time.monotonic(), 0))
            if any(thread.is_alive() for thread in threads):
                raise subprocess.TimeoutExpired(command, timeout_s)
        finally:
            process.kill()
    out, err = (b"".join(parts) for parts in said)
    if max(len(out), len(err)) > MOST_OUTPUT_BYTES:
        raise DeviceError(f"{command[0]}: the device says more than {MOST_OUTPUT_BYTES:,} bytes; the connection was ended")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _read(process: subprocess.Popen[bytes], stream: IO[bytes], parts: list[bytes]) -> None:
    size = 0
    with contextlib.suppress(ValueError):  # closed meanwhile
        while chunk := stream.read1(READ_BYTES):  # type: ignore[attr-defined]  # a pipe's reader has it
            size += len(chunk)
            parts.append(chunk)
            if size > MOST_OUTPUT_BYTES:
                process.kill()
                return


def _feed(process: subprocess.Popen[bytes], given: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):
        process.stdin.write(given)
    with contextlib.suppress(BrokenPipeError, ValueError):
        process.stdin.close()
