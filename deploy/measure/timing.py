"""One clock, one warm-up rule and one interleaving for every engine.

Variants that are compared are timed in alternating blocks, A B C, C A B, B A C ..., each variant in a
process of its own and each block warmed again while the others idle. Measured why: one after the other
was off by a factor of two on a shared machine; alternating call by call keeps every cache cold; two
runtimes in one process tax each other's threads; in an order that is always the same, what runs behind
the same other one every time was off by 4 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deploy.engines.base import Session
from deploy.measure.load import Load, load_between, read_usage

# Samples that a percentile needs at 99 % confidence (MLPerf Inference's early-stopping estimate, no discards).
SUPPORT = {50: 11, 90: 64, 95: 130, 99: 662}
WARMUP_RUNS = 5
WARMUP_SECONDS = 0.02
ROUNDS = 11
MOST_OVER_MINIMUM = 2.0
"""Median over minimum that a machine of its own keeps to; nine times was seen where others computed."""
MOST_CV = 0.8
"""Coefficient of variation that it keeps to; 0.8 to 3.8 were seen where others computed."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference; a percentile that the samples cannot support is ``None``.

    Attributes:
        own_p50: the median by the runtime's own clock, where it has one: ``p50`` less the call out of Python.
        samples: timed inferences.
        cv: standard deviation over mean, without unit.
    """

    min: float
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    samples: int
    cv: float
    batch: int
    threads: int
    own_p50: float | None = None


@dataclass(frozen=True)
class Times:
    """Single inferences in milliseconds.

    Attributes:
        called: around the call, on one clock for every runtime; what variants are compared by.
        own: the same inferences by the runtime's own clock; empty where it has none.
        blocks: how many inferences each block has that was timed in turns with other variants' blocks.
        load: what else the machine did during all blocks, their warm-up included.
    """

    called: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    load: Load = field(default_factory=Load)

    def __len__(self) -> int:
        return len(self.called)

    def append_block(self, later: Times) -> Times:
        """Return these times and those of one more block."""
        called, own, load = [*self.called, *later.called], [*self.own, *later.own], self.load + later.load
        return Times(called, own, [*self.blocks, len(later)], load)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Times:
        """Make times from the values of their ``asdict``."""
        return cls(**{**data, "load": Load(**data["load"])})

    def medians(self) -> list[float]:
        """Return the median of each block."""
        ends = np.cumsum(self.blocks)[:-1]
        return [float(np.median(block)) for block in np.split(np.asarray(self.called), ends)]


Timer = Callable[[float], Times]
"""Function that times one warmed block of about so many seconds."""


def time_block(session: Session, seconds: float) -> Times:
    """Warm ``session`` up, then time single inferences for ``seconds`` (at least 11)."""
    started, usage = time.perf_counter(), read_usage()
    runs = 0
    while runs < WARMUP_RUNS or time.perf_counter() - started < WARMUP_SECONDS:
        session.run()
        runs += 1
    times = Times()
    end = time.perf_counter() + seconds
    while len(times) < SUPPORT[50] or time.perf_counter() < end:
        before = time.perf_counter_ns()
        session.run()
        times.called.append((time.perf_counter_ns() - before) / 1e6)
        if (own := session.own_ms()) is not None:
            times.own.append(own)
    return replace(times, load=load_between(usage, read_usage()))


def interleave(
    timers: Mapping[str, Timer], seconds: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Times]:
    """Time each variant for about ``seconds`` in ``ROUNDS`` alternating blocks, in another order each round; by name."""
    times, names, orders = {name: Times() for name in timers}, list(timers), np.random.default_rng(0)
    for done in range(ROUNDS):
        for index in orders.permutation(len(names)):
            name = names[index]
            times[name] = times[name].append_block(timers[name](seconds / ROUNDS))
        progress(done + 1, ROUNDS)
    return times


def ratio_interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return an interval for ``one`` over ``other``, from the medians of their blocks, round by round (at least three).

    All ratios but the outermost on either side: of ``ROUNDS`` that holds what their median tends to in 98.8 of 100 cases
    (the sign test's interval).
    """
    ratios = sorted(a / b for a, b in zip(one, other, strict=True))
    return ratios[1], ratios[-2]


def unsteadiness(latency: Latency) -> str:
    """Say how far a latency's samples spread, where that is more than on a machine of its own; empty when it is not."""
    reasons = []
    if latency.p50 is not None and latency.p50 > MOST_OVER_MINIMUM * latency.min:
        reasons.append(f"a median of {latency.p50:.3f} ms is {latency.p50 / latency.min:.1f} times the minimum")
    if latency.cv > MOST_CV:
        reasons.append(f"the coefficient of variation is {latency.cv:.1f}")
    return " and ".join(reasons)


def summarise(measured: Times, *, batch: int, threads: int) -> Latency:
    """Summarise the latency of single inferences (at least one)."""
    times = np.asarray(measured.called)
    supported = {q: float(np.percentile(times, q)) if len(times) >= n else None for q, n in SUPPORT.items()}
    return Latency(
        min=float(times.min()),
        p50=supported[50],
        p90=supported[90],
        p95=supported[95],
        p99=supported[99],
        samples=len(times),
        cv=float(times.std() / times.mean()),
        batch=batch,
        threads=threads,
        own_p50=float(np.median(measured.own)) if len(measured.own) >= SUPPORT[50] else None,
    )
