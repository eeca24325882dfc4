"""How long races wait for a device that others use."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from deploy.measure.load import LOOK_S
from deploy.worker.client import RemoteWorker

TOLD_EVERY_S = 5.0


@final
class Patience:
    """A limit in seconds for each wait. A wait in vain halves the next one's, until the device was quiet again:

    on a device that is never quiet, all races of a run together wait no more than twice the limit.

    Args:
        limit_s: 0 waits for nothing, and nothing is timed again.
        say: prints a line.
    """

    def __init__(self, limit_s: float, say: Callable[[str], None]) -> None:
        self.limit_s, self._say = limit_s, say
        self._allowed_s = limit_s

    def wait(self, worker: RemoteWorker, why: str) -> tuple[bool, float]:
        """Wait until the device of an idle worker is quiet; return whether it is, and the seconds waited.

        Args:
            why: what was seen while something was timed.
        """
        if self.limit_s <= 0:
            return False, 0.0
        waited_s, told_s = 0.0, -TOLD_EVERY_S
        while doubts := (load := worker.look(LOOK_S)).doubts():
            waited_s += load.wall_s
            if waited_s >= self._allowed_s:
                self._say(f"  the device was not quiet within {waited_s:.0f} s; timed all the same")
                self._allowed_s /= 2
                return False, waited_s
            if waited_s - told_s >= TOLD_EVERY_S:
                left_s = self._allowed_s - waited_s
                self._say(f"  waiting for a quiet device, {left_s:.0f} s at most: {doubts[0]}")
                told_s = waited_s
        self._allowed_s = self.limit_s
        self._say(f"  not a quiet device while it was timed ({why}); it is quiet now: timed again")
        return True, waited_s
