"""Messages over a pair of file descriptors: JSON lines, and files as chunks after a line. No wait is endless.

A chunk is eight hexadecimal digits of length and that many bytes; a chunk of length 0 ends a file.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterable, Iterator
from typing import Any, final

CHUNK_BYTES = 1 << 18
LONGEST_LINE_BYTES = 1 << 25
"""What JSON makes of a line may take thirty times as much memory."""
LONGEST_CHUNK_BYTES = 1 << 28


class ClosedError(ConnectionError):
    """A connection whose other end is gone."""


class MalformedError(ValueError):
    """A line that is no JSON, or a chunk without a length."""


class SilentError(ConnectionError):
    """A connection whose other end is there and silent."""


@final
class Wire:
    """One end of a connection; the descriptors are made non-blocking and stay the caller's to close.

    Attributes:
        idle_s: how long to wait for one byte to move; None waits for as long as the other end lives.
    """

    def __init__(self, read_fd: int, write_fd: int, idle_s: float | None) -> None:
        self.idle_s = idle_s
        self._read_fd, self._write_fd = read_fd, write_fd
        self._buffer = bytearray()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def send(self, message: Any) -> None:
        """Send one JSON line."""
        self._write(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """Receive the next JSON line.

        Raises:
            ClosedError: there is none any more.
            SilentError: none came for ``idle_s``.
            MalformedError: it is no JSON.
        """
        try:
            return json.loads(self.line())
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"a line is no JSON: {type(error).__name__}") from None

    def line(self) -> bytes:
        """Receive the next line without its end."""
        searched = 0
        while (at := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LONGEST_LINE_BYTES:
                raise ClosedError("a line without end")
            self._fill()
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line

    def send_chunks(self, chunks: Iterable[bytes]) -> int:
        """Send a file; return its bytes."""
        total = 0
        for chunk in chunks:
            if chunk:
                self._write(b"%08x" % len(chunk) + chunk)
                total += len(chunk)
        self._write(b"%08x" % 0)
        return total

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a file, as they arrive.

        Raises:
            MalformedError: what arrives is no chunk.
        """
        while size := _chunk_size(self._exactly(8)):
            yield self._exactly(size)

    def is_closed(self) -> bool:
        """Return at once whether the other end has gone; call it only when nothing is due from there."""
        ready, _, _ = select.select([self._read_fd], [], [], 0)
        if not ready:
            return False
        try:
            self._fill()
        except ClosedError:
            return True
        return False

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self) -> None:
        ready, _, _ = select.select([self._read_fd], [], [], self.idle_s)
        if not ready:
            raise SilentError(f"silent for {self.idle_s:g} s")
        try:
            read = os.read(self._read_fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise ClosedError(str(error)) from None
        if not read:
            raise ClosedError("closed")
        self._buffer += read

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._write_fd], [], self.idle_s)
            if not ready:
                raise SilentError(f"nothing taken for {self.idle_s:g} s")
            try:
                view = view[os.write(self._write_fd, view[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClosedError(str(error)) from None


def _chunk_size(header: bytes) -> int:
    """Read a chunk's length; after a malformed one it is not known where the file ends."""
    if not all(c in b"0123456789abcdef" for c in header) or int(header, 16) > LONGEST_CHUNK_BYTES:
        raise MalformedError("what came is no chunk of a file")
    return int(header, 16)
