"""Whether a new model is slower: short races of both in fresh processes, until their rounds tell.

Each race is a sample of its own: two new processes, eleven rounds in turns. Of each round two figures are compared: the
fastest tenth of a block, which others on the machine hardly touch, and its median, which they do. A race is the median over
its rounds; the answer is Student's interval over races, so what a process has by chance (where its memory lies) is in it.

- worse: either figure is shown to be over the limit;
- fine: the fastest tenth is shown to be within it, and the median is by its best estimate;
- else another race, until the time is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.execution.progress import Progress
from compress.pipeline.intervals import Interval, mean_interval, values_needed
from compress.report.check_record import Answer, Finding
from deploy.devices import Device
from deploy.measure.timing import ROUNDS, Times
from deploy.worker.client import RemoteWorker
from deploy.worker.race import Race, locked_clocks, race

OLD, NEW = "old", "new"
LEAST_RACES = 4
CONFIDENCE = 0.99
"""Of each bound at each look. Looking after every race errs more often than one look; docs/benchmarks.md has how often."""
FASTEST = 0.1
BLOCK_S = 0.1
MOST_RACES = 10_000
"""A difference that takes more to tell from the limit is as large as the limit."""
Feed = Callable[[Mapping[str, Any]], npt.NDArray[Any]]
"""Function that gives the first samples for an input (name, shape, dtype)."""


@final
@dataclass(frozen=True, kw_only=True)
class Round:
    """One race: natural logarithms of how many times as long the new model takes.

    Attributes:
        fastest, median: by the fastest tenth of each block, and by its median.
    """

    fastest: float
    median: float


def compare_race(times: Mapping[str, Times]) -> Round:
    """Compare the two models of a race, round by round."""
    blocks = {name: np.split(np.asarray(of.called), np.cumsum(of.blocks)[:-1]) for name, of in times.items()}

    def ratio(figure: Callable[[npt.NDArray[Any]], Any]) -> float:
        pairs = zip(blocks[OLD], blocks[NEW], strict=True)
        return float(np.median([math.log(figure(new) / figure(old)) for old, new in pairs]))

    return Round(fastest=ratio(lambda block: np.quantile(block, FASTEST)), median=ratio(np.median))


def judge(rounds: Sequence[Round], limit: float) -> tuple[Answer, Interval]:
    """Judge races against ``limit``, the logarithm of how many times as long the new model may take."""
    fastest = mean_interval([each.fastest for each in rounds], CONFIDENCE)
    median = mean_interval([each.median for each in rounds], CONFIDENCE)
    if fastest.low > limit:
        return "worse", fastest
    if median.low > limit:
        return "worse", median
    if fastest.high <= limit and median.middle <= limit:
        return "fine", fastest
    return "cannot tell", fastest if fastest.high > limit else median


def is_told(rounds: Sequence[Round], limit: float) -> bool:
    """Whether races tell on which side of ``limit`` the new model is."""
    return len(rounds) >= LEAST_RACES and judge(rounds, limit)[0] != "cannot tell"


def time_until_told(
    engines: Mapping[str, Path],
    device: Device,
    most_slower: float,
    seconds: float,
    feed: Feed,
    progress: Progress,
    *,
    lock_clocks: bool = False,
) -> tuple[Finding, tuple[str, ...]]:
    """Race the built engines ``OLD`` and ``NEW`` until it is told whether the new one is slower, at most ``seconds``.

    Args:
        most_slower: per cent that it may be.

    Returns:
        The finding, and why the times are not a clean measurement.
    """
    limit, started = math.log1p(most_slower / 100), time.monotonic()
    block_s = min(BLOCK_S, seconds / LEAST_RACES / ROUNDS / 4)
    rounds: list[Round] = []
    calls: dict[str, list[float]] = {OLD: [], NEW: []}
    doubts: dict[str, None] = {}
    with locked_clocks(device, lock=lock_clocks), progress.task("check: races", max(1, round(seconds))) as bar:
        while True:
            order = (OLD, NEW) if len(rounds) % 2 == 0 else (NEW, OLD)
            before = time.monotonic() - started
            raced = race_once({name: engines[name] for name in order}, device, feed, block_s)
            rounds.append(compare_race(raced.times))
            doubts |= dict.fromkeys(raced.doubts)
            for name, times in raced.times.items():
                calls[name] += times.called
            took = time.monotonic() - started
            bar.advance(round(took - before), f"{100 * math.expm1(rounds[-1].fastest):+.2f} %")
            if is_told(rounds, limit) or took + took / len(rounds) > seconds:
                break
    facts = {
        "races": len(rounds),
        "rounds_each": ROUNDS,
        "p50_ms": {name: float(np.median(times)) for name, times in calls.items()},
        "fastest_tenth_ms": {name: float(np.quantile(times, FASTEST)) for name, times in calls.items()},
        "seconds": took,
    }
    return _finding(rounds, limit, most_slower, took, facts), tuple(doubts)


def _finding(rounds: Sequence[Round], limit: float, most_slower: float, took: float, facts: Mapping[str, Any]) -> Finding:
    p50 = facts["p50_ms"]
    compared = f"{p50[OLD]:.3f} -> {p50[NEW]:.3f} ms p50 over {len(rounds)} races in turns"
    about: dict[str, Any] = {"question": "latency", "limit": most_slower, "unit": "%", "facts": facts}
    if len(rounds) < LEAST_RACES:
        needed = f"about {LEAST_RACES * took / len(rounds):.0f} s: {LEAST_RACES} races are the least that tell anything"
        return Finding(answer="cannot tell", compared=compared, needed=needed, **about)
    answer, interval = judge(rounds, limit)
    needed = _needed(rounds, limit, took) if answer == "cannot tell" else ""
    low, middle, high = (100 * math.expm1(value) for value in (interval.low, interval.middle, interval.high))
    return Finding(answer=answer, compared=compared, needed=needed, low=low, middle=middle, high=high, **about)


def _needed(rounds: Sequence[Round], limit: float, took: float) -> str:
    """Say how long it would take to tell, at the pace and spread of the races so far."""
    fastest, median = [each.fastest for each in rounds], [each.median for each in rounds]
    races = values_needed(fastest, limit, CONFIDENCE)
    if float(np.mean(median)) > limit:
        races = max(races, values_needed(median, limit, CONFIDENCE))
    if races > MOST_RACES:
        return "the difference is as large as what is allowed, as far as can be measured; allow more, or less"
    more = max(races, len(rounds) + 1.0)
    return f"about {more * took / len(rounds):.0f} s (--seconds), or a machine that others do not use"


def race_once(engines: Mapping[str, Path], device: Device, feed: Feed, block_s: float = BLOCK_S) -> Race:
    """Race built engines in processes of their own, in blocks of about ``block_s`` seconds."""
    with ExitStack() as stack:
        workers = {}
        for name, folder in engines.items():
            workers[name] = stack.enter_context(RemoteWorker(device))
            opened = workers[name].open(folder)
            workers[name].warm({spec["name"]: feed(spec) for spec in opened["inputs"]})
        return race(workers, block_s * ROUNDS, lambda done, total: None)
