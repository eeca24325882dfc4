"""Races: engines timed in turns on the device, each race a step made once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from compress.execution import distributed
from compress.execution.cache import Step, StepCache, digest
from compress.execution.progress import Progress, follow
from compress.pipeline.cache_keys import code_key
from compress.pipeline.whole_path import WholePath
from compress.report.record import SizeLatency
from deploy.devices import Device
from deploy.engines.inputs import Inputs, as_feed, input_names
from deploy.measure.footprint import Footprint
from deploy.measure.load import LOOK_S, default_quiet_s
from deploy.measure.path_times import PathLatency, path_latency_from
from deploy.measure.timing import ROUNDS, Latency, ratio_interval, summarise
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from deploy.worker.pool import WorkerPool
from deploy.worker.race import locked_clocks, race
from deploy.worker.whole_path import race_paths
from profiles.errors import UserError

PATH_SHARE = 0.5
"""Of the time that an engine is timed for, what its whole path is timed for after it."""
WHOLE = {"": 1.0}
"""Share of the samples that the engine of a model with one size takes."""
MOST_TRIES = 3
"""Races of the same engines that are timed under doubt before the newest is taken for good."""


@final
@dataclass(frozen=True, kw_only=True)
class RaceOptions:
    """How races are timed.

    Attributes:
        quiet_seconds: how long a race waits for a device that others use; 0 waits for nothing and times nothing again.
        lock_clocks: hold the device's clocks meanwhile.
        again: time again what was timed in earlier runs.
    """

    quiet_seconds: float = field(default_factory=default_quiet_s)
    lock_clocks: bool = False
    again: bool = False


@final
class RaceResult:
    """Latencies of engines by the keys of their steps, and the rounds that they come from."""

    def __init__(self, facts: Mapping[str, Any], shares: Mapping[str, float] | None = None) -> None:
        self._facts, self._shares = facts, shares or WHOLE

    @property
    def conditions(self) -> Mapping[str, Any]:
        """Clocks, temperatures, energy and doubts while it ran."""
        conditions: Mapping[str, Any] = self._facts["conditions"]
        return conditions

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it is not a clean measurement, how long was waited for one included; empty when it is."""
        told = self.conditions["doubts"]
        waited_s = self.conditions["waited_s"]
        return (*told, f"{waited_s:.0f} s were waited for a quiet device") if told and waited_s >= 1 else tuple(told)

    def latency(self, engine: Step) -> Latency:
        """Return the latency of one engine, in milliseconds; of several sizes weighted by their shares."""
        return weighted([(self.latency_of(engine, below), share) for below, share in self._shares.items()])

    def latency_of(self, engine: Step, below: str) -> Latency:
        """Return the latency of the engine of one size, in the folder ``below`` the largest's."""
        return Latency(**self._facts["latency_ms"][_name(engine.key, below)])

    def footprint(self, engine: Step) -> Footprint:
        """Return what holding one engine costs: memory, loading, first inference."""
        return Footprint(**self._facts["footprints"][engine.key])

    def path_ms(self, engine: Step) -> PathLatency | None:
        """Return the latency of an engine's whole path, in milliseconds; None where it was not timed."""
        found = self._facts["path_ms"].get(engine.key)
        return None if found is None else path_latency_from(found)

    def at_sizes(self, engine: Step, folders: Mapping[str, int]) -> tuple[SizeLatency, ...]:
        """Return the latency at each size, by the folders below an engine's; none where it has one."""
        return tuple(
            SizeLatency(size=size, share=self._shares[below], p50_ms=self.latency_of(engine, below).p50 or 0.0)
            for below, size in sorted(folders.items(), key=lambda item: item[1])
        )

    def ratio(self, one: Step, other: Step) -> tuple[float, float]:
        """Return the interval of how many times faster ``other`` is than ``one``, by their rounds."""
        return ratio_interval(self._rounds(one), self._rounds(other))

    def energy_mj(self, engine: Step) -> float | None:
        """Return the millijoules of one inference; None where the device has no power rails."""
        of_parts = [(self.conditions["energy_mj"].get(_name(engine.key, b)), share) for b, share in self._shares.items()]
        return None if any(mj is None for mj, _ in of_parts) else sum(mj * share for mj, share in of_parts)

    def _rounds(self, engine: Step) -> list[float]:
        """Return the median of each round, weighted by the shares of the sizes."""
        rounds = self._facts["rounds_ms"]
        parts = [[ms * share for ms in rounds[_name(engine.key, below)]] for below, share in self._shares.items()]
        return [sum(each) for each in zip(*parts, strict=True)]


def facts_and_setting(pool: WorkerPool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask a device for its facts, and for how it is set: power mode and governors."""
    with pool.worker() as worker:
        facts, now = worker.facts(), worker.conditions()
    return facts, {"power_mode": now.power_mode, "governors": dict(now.governors)}


def device_key(url: str, device: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a device decides a latency, of its address and facts."""
    return {"url": url, **{k: device[k] for k in ("arch", "processor", "cores", "flags")}}


@final
class Races:
    """Races of engines on one device.

    A race is kept under its conditions: power mode, governors, and its number. One that was timed under doubt is timed
    again, under the next number, once the device is quiet; of all the newest clean one counts, or else the newest.

    Args:
        pool: of workers that nothing is timed on; cleared before a race.
        device_key: the device's facts that decide a latency; ``setting`` is how it was set when the run began.
        feed: gives so many first samples of the data.
        shares: gives the share of samples of each folder below an engine's; all of the engine's own without.
        options: how races are timed.
    """

    def __init__(
        self,
        device: Device,
        pool: WorkerPool,
        cache: StepCache,
        progress: Progress,
        *,
        device_key: Mapping[str, Any],
        setting: Mapping[str, Any],
        feed: Callable[[int], Inputs],
        options: RaceOptions,
        shares: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._device, self._pool, self._cache, self._progress = device, pool, cache, progress
        self._decided_by = {"device": device_key, "setting": setting, "lock_clocks": options.lock_clocks}
        self._feed, self._options, self._shares = feed, options, shares
        self._patience = Patience(options.quiet_seconds, progress.say)
        self._energy_mj: dict[str, float | None] = {}
        self._footprints: dict[str, Footprint] = {}
        self._path_ms: dict[str, PathLatency] = {}
        self._results: dict[str, RaceResult] = {}

    def run(self, engines: Collection[Step], seconds: float, paths: Mapping[str, WholePath] | None = None) -> RaceResult:
        """Time engines in turns, ``seconds`` of each; equal ones run once, and a race that was run is not run again.

        Args:
            paths: what is around each engine, by its key; those that have it are timed from raw samples to answers too.
        """
        engine_by_key = {engine.key: engine for engine in engines}
        decided = {
            "engines": sorted(engine_by_key),
            "seconds": seconds,
            **self._decided_by,
            "code": code_key(race, race_paths),
        }
        if paths:
            decided["paths"] = {key: path.key() for key, path in sorted(paths.items())}
        known = digest(decided)
        if known not in self._results:
            facts = self._run(engine_by_key, seconds, decided, paths or {}).facts
            self._results[known] = RaceResult(facts, self._shares())
        result = self._results[known]
        self._energy_mj |= {key: result.energy_mj(engine) for key, engine in engine_by_key.items()}
        self._path_ms |= {key: path for key, engine in engine_by_key.items() if (path := result.path_ms(engine))}
        self._footprints |= {key: result.footprint(engine) for key, engine in engine_by_key.items()}
        return result

    def _run(
        self,
        engine_by_key: Mapping[str, Step],
        seconds: float,
        decided: Mapping[str, Any],
        paths: Mapping[str, WholePath],
    ) -> Step:
        kept: list[Step] = []
        while (step := self._cache.find("race", {**decided, "number": len(kept)})) is not None:
            kept.append(step)
        if kept and not self._options.again and (_is_clean(_counting(kept)) or not self._may_be_clean(kept)):
            return _counting(kept)
        number = {"number": len(kept)}
        timing = lambda folder: self._timed(engine_by_key, seconds, paths)  # noqa: E731
        kept.append(self._cache.step("race", {**decided, **number}, timing))
        return _counting(kept)

    def _may_be_clean(self, kept: Sequence[Step]) -> bool:
        """Decide whether a race that was only timed under doubt is worth another try."""
        if len(kept) >= MOST_TRIES or self._patience.limit_s <= 0:
            return False
        return distributed.from_main(distributed.is_main() and self._is_quiet())

    def _is_quiet(self) -> bool:
        with self._pool.worker() as worker:
            return not worker.look(LOOK_S).doubts()

    def energy_mj(self, engine: Step) -> float | None:
        """Return the millijoules of one inference of an engine that raced; None where the device has no power rails."""
        return self._energy_mj.get(engine.key)

    def path_ms(self, engine: Step) -> PathLatency | None:
        """Return the latency of the whole path of an engine that raced; None where it was not timed."""
        return self._path_ms.get(engine.key)

    def footprint(self, engine: Step) -> Footprint:
        """Return what holding an engine that raced costs: memory, loading, first inference."""
        return self._footprints[engine.key]

    def _timed(self, engines: Mapping[str, Step], seconds: float, paths: Mapping[str, WholePath]) -> dict[str, Any]:
        self._pool.clear()
        parts, lock = self._shares() or WHOLE, self._options.lock_clocks
        folders = {_name(key, below): e.folder / "engine" / below for key, e in engines.items() for below in parts}
        return timed(folders, self._device, seconds, self._feed, self._patience, lock, self._progress, paths)


def timed(
    folders: Mapping[str, Path],
    device: Device,
    seconds: float,
    feed: Callable[[int], Inputs],
    patience: Patience,
    lock_clocks: bool,
    progress: Progress,
    paths: Mapping[str, WholePath] | None = None,
) -> dict[str, Any]:
    """Race the engines in folders, by name, and after them their whole paths; return what ``RaceResult`` reads."""
    with ExitStack() as stack:
        stack.enter_context(locked_clocks(device, lock=lock_clocks))
        workers, sessions, first_ms = {}, {}, {}
        for key, folder in sorted(folders.items()):
            worker = stack.enter_context(RemoteWorker(device))
            sessions[key] = worker.open(folder)
            samples = sessions[key]["inputs"][0]["shape"][0]
            given = as_feed(feed(samples), input_names(sessions[key]))
            first_ms[key] = worker.warm(_cut(given, sessions[key]["inputs"]) if "/" in key else given)
            workers[key] = worker
        with progress.task(f"measure {len(workers)} engines", ROUNDS) as bar:
            raced = race(workers, seconds, follow(bar), patience)
        peak_mib = {key: worker.peak_mib() for key, worker in workers.items()}
        path_ms = _timed_paths(workers, paths or {}, seconds * PATH_SHARE, progress)
    costs = {
        key: Footprint(peak_mib=peak_mib[key], load_ms=opened["load_ms"], first_ms=first_ms[key])
        for key, opened in sessions.items()
    }
    sizes = {key: {"batch": s["batch"], "threads": s["threads"]} for key, s in sessions.items()}
    latencies = {key: asdict(summarise(times, **sizes[key])) for key, times in raced.times.items()}
    rounds = {key: times.medians() for key, times in raced.times.items()}
    footprints = {key: asdict(cost) for key, cost in costs.items()}
    facts = {"latency_ms": latencies, "rounds_ms": rounds, "footprints": footprints, "path_ms": path_ms}
    return {**facts, "conditions": raced.conditions()}


def _timed_paths(
    workers: Mapping[str, RemoteWorker], paths: Mapping[str, WholePath], seconds: float, progress: Progress
) -> dict[str, Any]:
    """Time the whole paths of opened workers that have one, in turns; what cannot be timed is told and left out."""
    described: dict[str, RemoteWorker] = {}
    for key, path in paths.items():
        try:
            path.describe_to(workers[key])
            workers[key].time_path(0)
        except UserError as error:
            progress.say(f"  the whole path is not timed: {error}")
            return {}
        described[key] = workers[key]
    if not described:
        return {}
    with progress.task("measure whole paths", ROUNDS) as bar:
        found = race_paths(described, seconds, follow(bar))
    return {key: asdict(times.summary()) for key, times in found.items()}


def weighted(parts: Sequence[tuple[Latency, float]]) -> Latency:
    """Return the mean of latencies by their shares, figure by figure; one alone as it is."""
    if len(parts) == 1:
        return parts[0][0]

    def mean(name: str) -> float | None:
        values = [(getattr(latency, name), share) for latency, share in parts]
        return None if any(value is None for value, _ in values) else sum(value * share for value, share in values)

    figures = {name: mean(name) for name in ("min", "p50", "p90", "p95", "p99", "cv", "own_p50")}
    return replace(parts[0][0], samples=sum(latency.samples for latency, _ in parts), **figures)  # type: ignore[arg-type]


def _name(key: str, below: str) -> str:
    return f"{key}/{below}" if below else key


def _cut(feed: Mapping[str, Any], specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cut samples to the sizes that an engine takes."""
    cuts = {spec["name"]: (slice(None), *(slice(size) for size in spec["shape"][1:])) for spec in specs}
    return {name: array[cuts[name]] for name, array in feed.items()}


def _counting(kept: Sequence[Step]) -> Step:
    """Return the race that counts of those that were timed: the newest clean one, or else the newest."""
    return next((step for step in reversed(kept) if _is_clean(step)), kept[-1])


def _is_clean(step: Step) -> bool:
    return not step.facts["conditions"]["doubts"]
