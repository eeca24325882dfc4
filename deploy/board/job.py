"""A job that outlives the connection it was started from, and does not outlive its client.

The supervisor runs a command and listens on a socket in the job's folder. A client says how much of the job it has seen and
gets the rest; what it sends is numbered, so that nothing is done twice when it comes back after a cut. Without a client for
``grace_s`` the command is stopped. Messages are JSON lines:

    client: {"hello": seen}  {"in": n, "text": ..} or {"in": n, "end": true}  {"seen": n}  {"alive": true}  {"kill": true}
    supervisor: {"taken": n}     {"n": n, "out": text}  {"n": n, "err": text}  {"n": n, "exit": code}  {"alive": true}
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from deploy.board.lock import BEAT_S, Lock
from profiles.json_kinds import is_integer

SOCKET = "socket"
ALIVE_S = 10.0
SILENT_S = 60.0
STOP_S = 3.0
MOST_WAITING_BYTES = 1 << 24
READ_BYTES = 1 << 16


@final
class JobSupervisor:
    """The parent of one command; ``run`` returns when the command has ended and its client knows, or its client is gone."""

    def __init__(self, folder: Path, command: Sequence[str], grace_s: float, lock: Lock | None = None) -> None:
        self._folder, self._grace_s, self._lock = folder, grace_s, lock
        os.chdir(folder)  # a socket's path has room for a hundred bytes, a home folder may not
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{SOCKET}.new")
        self._listener.listen(4)
        Path(f"{SOCKET}.new").rename(SOCKET)  # whoever sees it may connect: between bind and listen they would be refused
        self._client: socket.socket | None = None
        self._inbox, self._outbox, self._to_command = bytearray(), bytearray(), bytearray()
        self._events: deque[tuple[int, bytes]] = deque()
        self._next_event, self._waiting_bytes = 0, 0
        self._received_count, self._input_ended, self._exited = 0, False, False
        self._heard = self._said = self._beat = time.monotonic()
        self._killed = False
        self._command = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._command.stdin and self._command.stdout and self._command.stderr
        decoder = codecs.getincrementaldecoder("utf-8")
        self._streams = {self._command.stdout: "out", self._command.stderr: "err"}
        self._decoders = {name: decoder(errors="replace") for name in ("out", "err")}
        for stream in (self._command.stdin, *self._streams):
            os.set_blocking(stream.fileno(), False)

    def run(self) -> None:
        """Serve until the job is over, then remove its folder."""
        signal.signal(signal.SIGTERM, self._on_signal)
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._stop_command()
            self._listener.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _on_signal(self, number: int, frame: object) -> None:
        self._killed = True

    def _is_over(self) -> bool:
        if self._killed:
            return True
        if self._client is None:
            return time.monotonic() - self._heard > self._grace_s
        return self._exited and not self._events

    def _turn(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            if self._client is not None:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
                selector.register(self._client, wanted)
            if self._waiting_bytes < MOST_WAITING_BYTES:
                for stream in self._streams:
                    selector.register(stream, selectors.EVENT_READ)
            assert self._command.stdin is not None
            if self._to_command and not self._command.stdin.closed:
                selector.register(self._command.stdin, selectors.EVENT_WRITE)
            ready = selector.select(timeout=1.0)
        for key, mask in ready:
            self._serve(key.fileobj, mask)
        self._look_at_the_command()
        self._look_at_the_clock()

    def _serve(self, what: Any, mask: int) -> None:
        if what is self._listener:
            self._accept()
        elif what is self._client and self._client is not None:
            if mask & selectors.EVENT_READ:
                self._hear()
            if mask & selectors.EVENT_WRITE and self._client is not None:
                self._speak()
        elif what is self._command.stdin:
            self._feed()
        elif what in self._streams:
            self._listen(what)

    def _accept(self) -> None:
        """Accept a client; one that was connected before is dropped."""
        self._drop_client()
        self._client, _ = self._listener.accept()
        self._client.setblocking(False)
        self._heard = self._said = time.monotonic()

    def _hear(self) -> None:
        assert self._client is not None
        try:
            read = self._client.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            read = b""
        if not read:
            self._drop_client()
            return
        self._heard = time.monotonic()
        self._inbox += read
        while (at := self._inbox.find(b"\n")) >= 0:
            line = bytes(self._inbox[:at])
            del self._inbox[: at + 1]
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not _is_message(message):
                self._drop_client()  # it speaks another language; the job goes on, for a client that comes back
                return
            self._obey(message)

    def _obey(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self._forget(message["hello"])
            self._tell({"taken": self._received_count})
            for _, line in self._events:
                self._outbox += line
        elif "seen" in message:
            self._forget(message["seen"])
        elif "kill" in message:
            self._killed = True
        elif "in" in message and message["in"] == self._received_count:
            self._received_count += 1
            self._to_command += message.get("text", "").encode()
            self._input_ended |= "end" in message
            self._feed()
            self._tell({"taken": self._received_count})

    def _forget(self, seen: int) -> None:
        while self._events and self._events[0][0] < seen:
            self._waiting_bytes -= len(self._events.popleft()[1])

    def _feed(self) -> None:
        """Write pending input to the command; close its input after that if the client has."""
        stdin = self._command.stdin
        assert stdin is not None
        if stdin.closed:
            return
        try:
            if self._to_command:
                del self._to_command[: os.write(stdin.fileno(), self._to_command[:READ_BYTES])]
            if self._input_ended and not self._to_command:
                stdin.close()
        except BlockingIOError:
            return
        except OSError:  # the command is gone, or reads no more
            self._to_command.clear()
            with contextlib.suppress(OSError):
                stdin.close()

    def _listen(self, stream: Any) -> bool:
        """Read a stream of the command; return False when nothing is there now."""
        name = self._streams[stream]
        try:
            read = os.read(stream.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        text = self._decoders[name].decode(read, final=not read)
        if text:
            self._event({name: text})
        if not read:
            del self._streams[stream]
        return True

    def _look_at_the_command(self) -> None:
        if self._exited or self._command.poll() is None:
            return
        for stream in list(self._streams):  # what a grandchild keeps open does not hold the news back
            while stream in self._streams and self._listen(stream):
                continue
        self._streams.clear()
        self._event({"exit": self._command.returncode})
        self._exited = True

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if self._client is not None and now - self._heard > SILENT_S:
            self._drop_client()
        if self._client is not None and now - self._said > ALIVE_S:
            self._tell({"alive": True})
        if self._lock is not None and now - self._beat > BEAT_S:
            self._beat = now
            with contextlib.suppress(OSError):
                self._lock.beat()

    def _event(self, event: dict[str, Any]) -> None:
        line = json.dumps({"n": self._next_event, **event}).encode() + b"\n"
        self._events.append((self._next_event, line))
        self._next_event += 1
        self._waiting_bytes += len(line)
        if self._client is not None:
            self._outbox += line

    def _tell(self, message: dict[str, Any]) -> None:
        if self._client is not None:
            self._outbox += json.dumps(message).encode() + b"\n"
            self._speak()

    def _speak(self) -> None:
        assert self._client is not None
        try:
            del self._outbox[: self._client.send(self._outbox[:READ_BYTES])]
            self._said = time.monotonic()
        except BlockingIOError:
            return
        except OSError:
            self._drop_client()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._inbox.clear()
        self._outbox.clear()

    def _stop_command(self) -> None:
        """End the command and its process group."""
        for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._command.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._command.wait(patience_s)


def _is_message(message: Any) -> bool:
    """Return whether the fields of a client's message are of their kinds."""
    if not isinstance(message, dict) or not isinstance(message.get("text", ""), str):
        return False
    counts = [message[name] for name in ("hello", "seen", "in") if name in message]
    return all(map(is_integer, counts))
