"""The host's end of a job on a board: standard streams as if the job ran here, whatever the connection does.

When the connection is lost it is made again and both sides go on where they were. After ``patience_s`` without one the
relay gives up (exit code 74) and the job's supervisor, which hears nothing either, ends the job. SIGTERM ends it at once.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, final

from deploy.board.attach import GONE
from deploy.board.job import ALIVE_S, SILENT_S, STOP_S
from deploy.board.wire import LONGEST_LINE_BYTES

LOST, JOB_GONE, KILLED = 74, 75, 143
NOTICE = "edge-compress: "
"""How lines for the user begin, among the job's own words on standard error."""
LONGEST_PAUSE_S = 5.0
MOST_WORDS = 2000
"""Bytes of a line of ssh's words that are kept."""


@final
class Relay:
    """The connection to one job; ``run`` returns the job's exit code."""

    def __init__(self, attach: Sequence[str], patience_s: float) -> None:
        self._attach, self._patience_s = list(attach), patience_s
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._unsent: deque[dict[str, Any]] = deque()
        self._sent_inputs, self._seen = 0, 0
        self._connection: subprocess.Popen[bytes] | None = None
        self._said_lost = False
        self._killing = False

    def run(self) -> int:
        """Relay the streams until the job has ended or is given up."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        threading.Thread(target=self._read_input, daemon=True).start()
        last_good = time.monotonic()
        pause_s = 0.25
        while True:
            started = time.monotonic()
            code = self._serve()
            if code is not None:
                return code
            if self._heard > started:
                last_good, pause_s = self._heard, 0.25
            if time.monotonic() - last_good > self._patience_s:
                self._notify(f"no connection for {self._patience_s:g} s, gave up: {self._end_of_stderr}")
                return LOST
            if not self._said_lost:
                self._notify(f"the connection was lost ({self._end_of_stderr}); the job goes on, connecting again")
                self._said_lost = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _serve(self) -> int | None:
        """Hold one connection; return the exit code when the job is over, None when the connection is."""
        self._heard, self._end_of_stderr = 0.0, "it said nothing"
        connection = subprocess.Popen(
            self._attach, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._connection = connection
        words: deque[str] = deque(maxlen=3)
        readers = [
            threading.Thread(target=self._read_connection, args=(connection,), daemon=True),
            threading.Thread(target=_read_words, args=(connection, words), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            return self._converse(connection)
        finally:
            connection.kill()
            code = connection.wait()
            for reader in readers:
                reader.join(timeout=2)
            self._end_of_stderr = " | ".join(words) or f"exit {code}"
            self._connection = None

    def _converse(self, connection: subprocess.Popen[bytes]) -> int | None:
        self._send({"hello": self._seen})
        began = last_sent = time.monotonic()
        greeted = False
        while True:
            if self._killing:
                self._send({"kill": True})
                with contextlib.suppress(subprocess.TimeoutExpired):
                    connection.wait(timeout=2 * STOP_S)  # the supervisor hangs up when the job is gone
                return KILLED
            now = time.monotonic()
            if now - max(began, self._heard) > SILENT_S:
                return None
            if now - last_sent > ALIVE_S:
                self._send({"alive": True})
                last_sent = now
            try:
                source, message = self._queue.get(timeout=1.0)
            except queue.Empty:
                continue
            if source is None:
                self._unsent.append(message)
                if greeted:
                    self._send(message)
            elif source is connection and message is None:
                return self._ended(connection)
            elif source is connection:
                self._heard = time.monotonic()
                if not greeted and "taken" not in message:
                    continue
                if not greeted:
                    greeted = True
                    self._welcome(message["taken"])
                code = self._take(message)
                if code is not None:
                    _hang_up(connection)
                    return code

    def _welcome(self, taken: int) -> None:
        if self._said_lost:
            self._notify("connected again")
            self._said_lost = False
        for message in self._unsent:
            if message["in"] >= taken:
                self._send(message)

    def _take(self, message: dict[str, Any]) -> int | None:
        """Write one message to the standard streams; return the exit code when it carries one."""
        while "taken" in message and self._unsent and self._unsent[0]["in"] < message["taken"]:
            self._unsent.popleft()
        if message.get("n") != self._seen:
            return None
        self._seen += 1
        for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
            if name in message:
                stream.write(message[name])
                stream.flush()
        self._send({"seen": self._seen})
        if "exit" not in message:
            return None
        code = int(message["exit"])
        return code if code >= 0 else 128 - code

    def _ended(self, connection: subprocess.Popen[bytes]) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if connection.wait(timeout=2) == GONE:
                self._notify("the job is not on the board any more; was it restarted?")
                return JOB_GONE
        return None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._connection is not None and self._connection.stdin is not None
        with contextlib.suppress(OSError):  # a lost connection is noticed where it is read
            self._connection.stdin.write(json.dumps(message).encode() + b"\n")
            self._connection.stdin.flush()

    def _read_input(self) -> None:
        for line in sys.stdin:
            self._queue.put((None, {"in": self._sent_inputs, "text": line}))
            self._sent_inputs += 1
        self._queue.put((None, {"in": self._sent_inputs, "end": True}))

    def _read_connection(self, connection: subprocess.Popen[bytes]) -> None:
        assert connection.stdout is not None
        while line := connection.stdout.readline(LONGEST_LINE_BYTES):
            with contextlib.suppress(ValueError, RecursionError):  # what a login script prints is no message
                message = json.loads(line)
                if _is_message(message):
                    self._queue.put((connection, message))
        self._queue.put((connection, None))

    def _on_signal(self, number: int, frame: object) -> None:
        self._killing = True

    def _notify(self, text: str) -> None:
        sys.stderr.write(f"{NOTICE}{text}\n")
        sys.stderr.flush()


def _is_message(message: object) -> bool:
    """Return whether a supervisor's message is one: it comes from another machine, and may be anything."""
    if not isinstance(message, dict):
        return False
    numbers = all(
        type(message[key]) is int and abs(message[key]) < 1 << 62 for key in ("taken", "n", "exit") if key in message
    )
    return numbers and all(isinstance(message[key], str) for key in ("out", "err") if key in message)


def _hang_up(connection: subprocess.Popen[bytes]) -> None:
    """Close a connection from this side, so that the final acknowledgement arrives: the supervisor waits for it."""
    assert connection.stdin is not None
    with contextlib.suppress(OSError):
        connection.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        connection.wait(timeout=STOP_S)


def _read_words(connection: subprocess.Popen[bytes], words: deque[str]) -> None:
    assert connection.stderr is not None
    while line := connection.stderr.readline(MOST_WORDS):
        if line.strip():
            words.append(line.decode(errors="replace").strip())
