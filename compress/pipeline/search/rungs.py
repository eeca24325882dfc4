"""When a trial stops: it is judged before any training, after a tenth of the epochs, and at the end.

A trial is stopped where it can no longer reach the front, by what other trials and the untouched teacher have shown:

- before training, latency and size are known: where another point is as small, as accurate as anything has been, and faster
  by all rounds of both races, this one cannot be better;
- after a tenth of the epochs, the accuracy too: what it can still win is bounded by the most that a finished trial won
  from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from compress.report.search_record import Point, costs_of

TENTH = 0.1
SURE = ("size_bytes", "stored_bytes", "peak_mib")
"""What a trial costs is known of these before it is trained, whatever else runs on the device."""
LEAST_GAINS = 3
"""Finished trials whose gains bound that of others."""


@final
@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished trial, or the untouched teacher.

    Attributes:
        name: how it is told.
        gain: that its accuracy rose from a tenth of the epochs to the end; None where it was not seen.
    """

    name: str
    point: Point
    gain: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a point may cost; None for what has no limit.

    Attributes:
        accuracy: the least.
    """

    accuracy: float
    latency_ms: float | None = None
    size_bytes: float | None = None
    stored_bytes: float | None = None
    peak_mib: float | None = None
    load_ms: float | None = None

    def excesses(self, point: Point) -> dict[str, float]:
        """Return by how much a point is over each limit, as a share of it; 0 or less is within, what is unknown is not."""
        found = {"accuracy": (self.accuracy - point.accuracy) / max(abs(self.accuracy), 1e-9)}
        for name in ("latency_ms", *SURE, "load_ms"):
            limit, cost = getattr(self, name), getattr(point, name)
            if limit is not None:
                found[name] = 1.0 if cost is None else cost / limit - 1
        return found

    def is_surely_slower(self, point: Point) -> bool:
        """Whether a point is over the time by each round of its race."""
        return self.latency_ms is not None and point.low_ms > self.latency_ms

    def faults(self, point: Point) -> tuple[str, ...]:
        """Say what is over the limits."""
        return tuple(
            f"{name} {_shown(getattr(point, name))}, the budget allows {getattr(self, name):.4g}"
            for name, excess in self.excesses(point).items()
            if excess > 0
        )


def why_stop_untrained(point: Point, finished: Sequence[Finished], limits: Limits, objectives: Sequence[str]) -> str:
    """Say why a trial stops before training; empty where it goes on. The point's accuracy counts for nothing yet."""
    names = ("latency_ms", *SURE) if limits.is_surely_slower(point) else SURE
    over = [fault for fault in limits.faults(point) if fault.startswith(names)]
    if over:
        return f"over the budget before any training: {'; '.join(over)}"
    if set(objectives) == {"accuracy"}:
        return ""  # of that nothing is known yet
    ceiling = max((each.point.accuracy for each in finished), default=math.inf)
    by = _dominator(point, ceiling, finished, objectives)
    return (
        ""
        if by is None
        else f"{by.name} is as accurate as anything yet ({ceiling:.2f}), and no slower or larger: {_costs(by.point)}"
    )


def why_stop_at_tenth(point: Point, finished: Sequence[Finished], limits: Limits, objectives: Sequence[str]) -> str:
    """Say why a trial stops after a tenth of the epochs; empty where it goes on."""
    gains = [each.gain for each in finished if each.gain is not None]
    if len(gains) < LEAST_GAINS:
        return ""
    ceiling = point.accuracy + max(0.0, *gains)
    most = f"{point.accuracy:.2f} after a tenth of the epochs, from where no trial won more than {max(0.0, *gains):.2f}"
    if ceiling < limits.accuracy:
        return f"{most}: the budget asks for {limits.accuracy:.2f}"
    by = _dominator(point, ceiling, finished, objectives)
    return (
        ""
        if by is None
        else f"{most}: {by.name} has {by.point.accuracy:.2f}, and is no slower or larger: {_costs(by.point)}"
    )


def _dominator(point: Point, ceiling: float, finished: Sequence[Finished], objectives: Sequence[str]) -> Finished | None:
    """Return what is as good in every objective as the point, were its accuracy ``ceiling``."""
    for each in finished:
        other = each.point
        is_no_worse = {
            "accuracy": other.accuracy >= ceiling,
            "latency": other.high_ms <= point.low_ms,
            "size": other.stored_bytes <= point.stored_bytes,
            "memory": costs_of(other, ["memory"]) <= costs_of(point, ["memory"]),
            "energy": costs_of(other, ["energy"]) <= costs_of(point, ["energy"]),
        }
        if all(is_no_worse[objective] for objective in objectives):
            return each
    return None


def _shown(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost:.4g}"


def _costs(point: Point) -> str:
    return f"{point.latency_ms:.3f} ms, {point.stored_bytes / 1024:.0f} KiB, {point.form}"
