"""One worker shared by untimed requests: starting one takes a board seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import final

from deploy.devices import Device
from deploy.worker.client import RemoteWorker


@final
class WorkerPool:
    """Workers on a device for untimed requests. While the pool is open one is kept; else each request has its own.

    Nothing stays behind: an error ends the worker, whose runtime may be at fault, and so does the end of ``open``.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._opened = 0
        self._kept: RemoteWorker | None = None
        self._stack = ExitStack()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep a worker, once one is requested, until the outermost of these blocks ends."""
        self._opened += 1
        try:
            yield
        finally:
            self._opened -= 1
            if not self._opened:
                self.clear()

    @contextmanager
    def worker(self) -> Iterator[RemoteWorker]:
        """Yield a worker for one or more requests about one engine."""
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
        """End the kept worker: none of our processes may run, or hold memory, beside a timed one."""
        self._kept = None
        self._stack.close()
