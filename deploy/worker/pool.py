"""One worker for many questions, where none of them is about time: starting one takes a board seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import final

from deploy.devices import Device
from deploy.worker.client import RemoteWorker


@final
class WorkerPool:
    """Workers on a device for what is not timed. While the pool is open one is kept; else every question has its own.

    Nothing stays behind: an error ends the worker, whose runtime may be at fault, and so does the end of ``open``.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._opened = 0
        self._kept: RemoteWorker | None = None
        self._stack = ExitStack()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep a worker, once one is asked for, until the outermost of these blocks is over."""
        self._opened += 1
        try:
            yield
        finally:
            self._opened -= 1
            if not self._opened:
                self.clear()

    @contextmanager
    def worker(self) -> Iterator[RemoteWorker]:
        """A worker, for one question or more about one engine."""
        if self._kept is None:
            self._kept = self._stack.enter_context(RemoteWorker(self._device))
        try:
            yield self._kept
        except BaseException:
            self._kept = None
            self._stack.__exit__(*sys.exc_info())
            raise
        if not self._opened:
            self.clear()

    def clear(self) -> None:
        """End the worker that is kept: nothing of ours is to run, or to hold memory, beside what is timed."""
        self._kept = None
        self._stack.close()
