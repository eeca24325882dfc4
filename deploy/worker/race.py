"""Interleaved timing of variants on one device, with cooling in between and the conditions at both ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from deploy.devices import Device
from deploy.measure.conditions import Conditions, doubts
from deploy.measure.timing import Timer, Times, interleave
from deploy.worker.client import RemoteWorker

MOST_COOLING_S = 300.0
LONGEST_COOLING_S = 60.0
ENERGY_S = 2.0
TENTH = 0.1


@final
@dataclass(frozen=True, kw_only=True)
class Race:
    """Times of all variants, and the conditions they were measured under.

    Attributes:
        times: single inferences by name.
        energy_mj: millijoules of one inference by name, the whole module's; absent where the board has no rails.
        before, after: the device at both ends.
        doubts: why it is not a clean measurement; empty when it is.
        cooled_s: seconds that were waited for the board to cool down.
    """

    times: Mapping[str, Times]
    energy_mj: Mapping[str, float]
    before: Conditions
    after: Conditions
    doubts: tuple[str, ...]
    cooled_s: float

    def conditions(self) -> dict[str, Any]:
        """Return everything but the times, as plain data for a report."""
        ends = {"before": self.before.as_json(), "after": self.after.as_json()}
        return {**ends, "doubts": list(self.doubts), "cooled_s": self.cooled_s, "energy_mj": dict(self.energy_mj)}


def race(workers: Mapping[str, RemoteWorker], seconds: float, progress: Callable[[int, int], None]) -> Race:
    """Time opened and warmed workers of one device, each for about ``seconds``."""
    first = next(iter(workers.values()))
    before = first.conditions()
    cooler = _Cooler(before.hottest_c)
    times = interleave({name: cooler.timer(worker) for name, worker in workers.items()}, seconds, progress)
    after = first.conditions()
    energy = {name: mj for name, worker in workers.items() if (mj := worker.energy_mj(ENERGY_S)) is not None}
    slowest = max(drift(of_one.called) for of_one in times.values())
    return Race(
        times=times,
        energy_mj=energy,
        before=before,
        after=after,
        doubts=doubts(before, after, slowest),
        cooled_s=cooler.waited_s,
    )


def drift(times_ms: list[float]) -> float:
    """Return by which fraction the last tenth was slower than the first, by their medians."""
    size = max(int(TENTH * len(times_ms)), 1)
    return float(np.median(times_ms[-size:]) / np.median(times_ms[:size])) - 1


@contextlib.contextmanager
def locked_clocks(device: Device, *, lock: bool) -> Iterator[None]:
    """Lock the device's clocks for the block if ``lock`` is set; they are restored however it ends.

    Raises:
        UserError: they cannot be locked there.
    """
    if not lock:
        yield
        return
    with RemoteWorker(device) as holder:
        holder.lock_clocks()
        yield


class _Cooler:
    """Cooling of the board before each block, within a budget of seconds."""

    def __init__(self, start_c: float | None) -> None:
        self._start_c = start_c
        self.waited_s = 0.0

    def timer(self, worker: RemoteWorker) -> Timer:
        def time(seconds: float) -> Times:
            left_s = min(LONGEST_COOLING_S, MOST_COOLING_S - self.waited_s)
            if self._start_c is not None and left_s > 0:
                self.waited_s += worker.cool(self._start_c, left_s)
            return worker.time(seconds)

        return time
