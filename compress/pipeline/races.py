"""Races: engines timed in turns on the device, each race a step made once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, final

import numpy.typing as npt

from compress.execution.cache import Step, StepCache
from compress.execution.progress import Progress
from compress.pipeline.cache_keys import code_key
from deploy.devices import Device
from deploy.measure.timing import Latency, ratio_interval, summarise, unsteadiness
from deploy.worker.client import RemoteWorker
from deploy.worker.pool import WorkerPool
from deploy.worker.race import locked_clocks, race


@final
class RaceResult:
    """Latencies of engines by the keys of their steps, and the rounds that they come from."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    @property
    def conditions(self) -> Mapping[str, Any]:
        """Clocks, temperatures, energy and doubts while it ran."""
        conditions: Mapping[str, Any] = self._facts["conditions"]
        return conditions

    def latency(self, engine: Step) -> Latency:
        """Return the latency of one engine, in milliseconds."""
        return Latency(**self._facts["latency_ms"][engine.key])

    def ratio(self, one: Step, other: Step) -> tuple[float, float]:
        """Return the interval of how many times faster ``other`` is than ``one``, by their rounds."""
        rounds = self._facts["rounds_ms"]
        return ratio_interval(rounds[one.key], rounds[other.key])


@final
class Races:
    """Races of engines on one device.

    Args:
        pool: of workers that nothing is timed on; cleared before a race.
        device_key: the device's facts that decide a latency.
        feed: gives so many first samples of the data.

    Attributes:
        doubts: why the latencies so far are not clean, in the order they came up.
    """

    def __init__(
        self,
        device: Device,
        pool: WorkerPool,
        cache: StepCache,
        progress: Progress,
        *,
        device_key: Mapping[str, Any],
        feed: Callable[[int], npt.NDArray[Any]],
        lock_clocks: bool,
    ) -> None:
        self._device, self._pool, self._cache, self._progress = device, pool, cache, progress
        self._device_key, self._feed, self._lock_clocks = device_key, feed, lock_clocks
        self._energy_mj: dict[str, float] = {}
        self.doubts: dict[str, None] = {}

    def run(self, engines: Collection[Step], seconds: float) -> RaceResult:
        """Time engines in turns, ``seconds`` of each; equal ones run once, and a race that was run is not run again."""
        engine_by_key = {engine.key: engine for engine in engines}
        decided = {
            "engines": sorted(engine_by_key),
            "seconds": seconds,
            "device": self._device_key,
            "lock_clocks": self._lock_clocks,
            "code": code_key(race),
        }
        step = self._cache.step("race", decided, lambda folder: self._timed(engine_by_key, seconds))
        result = RaceResult(step.facts)
        self._energy_mj |= result.conditions["energy_mj"]
        spread = dict.fromkeys(found for key in engine_by_key if (found := unsteadiness(result.latency(engine_by_key[key]))))
        self.doubts |= dict.fromkeys([*result.conditions["doubts"], *_busy(spread)])
        return result

    def energy_mj(self, engine: Step) -> float | None:
        """Return the millijoules of one inference of an engine that raced; None where the device has no power rails."""
        return self._energy_mj.get(engine.key)

    def _timed(self, engines: Mapping[str, Step], seconds: float) -> dict[str, Any]:
        self._pool.clear()
        with ExitStack() as stack:
            stack.enter_context(locked_clocks(self._device, lock=self._lock_clocks))
            workers, sessions = {}, {}
            for key, engine in sorted(engines.items()):
                worker = stack.enter_context(RemoteWorker(self._device))
                sessions[key] = worker.open(engine.folder / "engine")
                spec = sessions[key]["inputs"][0]
                worker.warm({spec["name"]: self._feed(spec["shape"][0])})
                workers[key] = worker
            with self._progress.task("measure", 11) as bar:
                raced = race(workers, seconds, lambda done, total: bar.advance(1))
        sizes = {key: {"batch": s["batch"], "threads": s["threads"]} for key, s in sessions.items()}
        latencies = {key: asdict(summarise(times, **sizes[key])) for key, times in raced.times.items()}
        rounds = {key: times.medians() for key, times in raced.times.items()}
        return {"latency_ms": latencies, "rounds_ms": rounds, "conditions": raced.conditions()}


def _busy(spread: Collection[str]) -> list[str]:
    """Say in one line that others seem to use the machine, by the first latency that shows it."""
    if not spread:
        return []
    return [f"others seem to use the machine ({next(iter(spread))}; {len(spread)} of the raced engines spread so)"]
