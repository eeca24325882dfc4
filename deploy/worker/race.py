"""Interleaved timing of variants on one device, with its conditions; once more where others used the device meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import numpy as np

from deploy.devices import Device
from deploy.measure.conditions import Conditions, doubts
from deploy.measure.load import Load
from deploy.measure.timing import Timer, Times, interleave, summarise, unsteadiness
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience

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
        load: what else the device did in all timed blocks together.
        doubts: why it is not a clean measurement; empty when it is.
        cooled_s, waited_s: seconds that were waited for the board to cool down, and to be quiet.
    """

    times: Mapping[str, Times]
    energy_mj: Mapping[str, float]
    before: Conditions
    after: Conditions
    load: Load
    doubts: tuple[str, ...]
    cooled_s: float
    waited_s: float = 0.0

    def conditions(self) -> dict[str, Any]:
        """Return everything but the times, as plain data for a report."""
        ends = {"before": self.before.as_json(), "after": self.after.as_json(), "load": asdict(self.load)}
        waits = {"cooled_s": self.cooled_s, "waited_s": self.waited_s}
        return {**ends, "doubts": list(self.doubts), **waits, "energy_mj": dict(self.energy_mj)}


def race(
    workers: Mapping[str, RemoteWorker],
    seconds: float,
    progress: Callable[[int, int], None],
    patience: Patience | None = None,
) -> Race:
    """Time opened and warmed workers of one device, each for about ``seconds``.

    Where others used the device meanwhile, or times spread as if, the race waits until it is quiet and is run once more.
    """
    first = next(iter(workers.values()))
    found = _race(workers, seconds, progress)
    disturbed = [*found.load.doubts(), *_spread(found.times)]
    if disturbed and patience is not None:
        is_quiet, waited_s = patience.wait(first, disturbed[0])
        found = replace(_race(workers, seconds, progress) if is_quiet else found, waited_s=waited_s)
    energy = {name: mj for name, worker in workers.items() if (mj := worker.energy_mj(ENERGY_S)) is not None}
    return replace(found, energy_mj=energy)


def _race(workers: Mapping[str, RemoteWorker], seconds: float, progress: Callable[[int, int], None]) -> Race:
    first = next(iter(workers.values()))
    before = first.conditions()
    cooler = _Cooler(before.hottest_c)
    times = interleave({name: cooler.timer(worker) for name, worker in workers.items()}, seconds, progress)
    after = first.conditions()
    slowest = max(drift(of_one.called) for of_one in times.values())
    load = sum((of_one.load for of_one in times.values()), start=Load())
    return Race(
        times=times,
        energy_mj={},
        before=before,
        after=after,
        load=load,
        doubts=(*doubts(before, after, slowest), *load.doubts(), *_spread(times)),
        cooled_s=cooler.waited_s,
    )


def _spread(times: Mapping[str, Times]) -> list[str]:
    """Say in one line that times spread as where others use the device, by the first that shows it."""
    latencies = (summarise(of_one, batch=1, threads=1) for of_one in times.values())
    told = [words for latency in latencies if (words := unsteadiness(latency))]
    return [f"times spread ({told[0]}; so in {len(told)} of {len(times)} timed)"] if told else []


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
