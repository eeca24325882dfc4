"""No silence: while a run works on something that tells nothing, a line says on what, and for how long it has.

What is being done is told by ``doing``; a thread of ``keep_telling`` says it whenever nothing was said for a while. A bar
on a terminal moves by itself, and is no silence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, final

SILENCE_S = 4.0
FIRST_S = 1.5
"""The first line comes within two seconds."""
LOOK_S = 0.5
START = "working"


@final
class Voice:
    """A stream, when it was last written to, and what is being done meanwhile.

    Attributes:
        bars: open bars on a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.bars = 0
        self._is_telling = self._has_spoken = False
        self._spoke = time.monotonic()
        self._doing: list[tuple[str, float]] = []
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Write a line."""
        with self._lock:
            print(line, file=self.stream, flush=True)
            self._has_spoken = True
            self._spoke = time.monotonic()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Have ``what`` told as that which is being done, until the block ends."""
        self._doing.append((what, time.monotonic()))
        try:
            yield
        finally:
            self._doing.pop()

    def tell(self) -> None:
        """Say what is being done, if nothing was said for a while."""
        if self.bars or time.monotonic() - self._spoke < (SILENCE_S if self._has_spoken else FIRST_S):
            return
        what, since = self._doing[-1]
        self.say(f"  {what}: {time.monotonic() - since:.0f} s so far")

    @contextmanager
    def keep_telling(self) -> Iterator[None]:
        """Never be silent for long, until the block ends; within another such block nothing changes."""
        if self._is_telling:
            yield
            return
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOK_S):
                self.tell()

        with self.doing(START):
            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            self._is_telling = True
            try:
                yield
            finally:
                self._is_telling = False
                over.set()
                thread.join()
