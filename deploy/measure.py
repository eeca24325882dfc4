"""One clock, one warm-up rule and one interleaving for every engine.

Variants that are compared are timed in alternating blocks, A B C A B C ..., each variant in a
process of its own and each block warmed again while the others idle. Measured why: one after the other
was off by a factor of two on a shared machine; alternating call by call keeps every cache cold; two
runtimes in one process tax each other's threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from deploy.engines.base import Session

# Samples that a percentile needs at 99 % confidence (MLPerf Inference's early-stopping estimate, no discards).
SUPPORT = {50: 11, 90: 64, 95: 130, 99: 662}
WARMUP_RUNS = 5
WARMUP_SECONDS = 0.02
ROUNDS = 11


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference; a percentile that the samples cannot support is ``None``.

    Attributes:
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


Timer = Callable[[float], list[float]]
"""Times one warmed block of about so many seconds; returns milliseconds per inference."""


def time_block(session: Session, seconds: float) -> list[float]:
    """Warm ``session`` up, then time single inferences for ``seconds`` (at least 11), in milliseconds."""
    started = time.perf_counter()
    runs = 0
    while runs < WARMUP_RUNS or time.perf_counter() - started < WARMUP_SECONDS:
        session.run()
        runs += 1
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < SUPPORT[50] or time.perf_counter() < end:
        before = time.perf_counter_ns()
        session.run()
        times.append((time.perf_counter_ns() - before) / 1e6)
    return times


def interleave(
    timers: Mapping[str, Timer], seconds: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, list[float]]:
    """Time each variant for about ``seconds`` in ``ROUNDS`` alternating blocks; milliseconds by name."""
    times: dict[str, list[float]] = {name: [] for name in timers}
    for done in range(ROUNDS):
        for name, timer in timers.items():
            times[name] += timer(seconds / ROUNDS)
        progress(done + 1, ROUNDS)
    return times


def summarise(times_ms: list[float], *, batch: int, threads: int) -> Latency:
    """The latency of a list of single inferences in milliseconds (at least one)."""
    times = np.asarray(times_ms)
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
    )
