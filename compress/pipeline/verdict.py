"""Final verdict on the rows of a report, and warnings about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from compress.methods.cost_model import is_loss
from compress.pipeline.gate import Interval, ModelMetrics, gained, points, within_accuracy
from compress.recipe.spec import Budget
from compress.report.record import Report, Row, Verdict

LEAST_GAP_POINTS = 2.0
"""A smaller difference between validation and test is told of no checkpoint, however many samples show it."""
GAP_ERRORS = 3.0
"""Standard errors that a difference is more than before it is told: one split in 700 by chance."""
NOT_CLEAN = "the latencies are not clean"
Speedup = Callable[[str, str], Interval]
"""Function that gives the interval of how many times faster the second row, by name, is than the first."""


def conclude(
    rows: Sequence[Row],
    budget: Budget,
    *,
    scale: float = 100.0,
    speedup: Speedup | None = None,
    is_quiet: bool = True,
) -> Verdict:
    """Choose the row to ship; the first of ``rows`` is the teacher's reference row.

    The choice looks at validation alone; whether the chosen row keeps the budget is then read from test. A student is chosen
    where the gate's rule finds a gain over the best free row; else that row is the answer.

    Args:
        scale: of the task's metric.
        speedup: by the rounds of the race that timed the rows; without it the ratios of medians are taken for exact.
        is_quiet: whether that race is a clean measurement.
    """
    teacher = rows[0]
    free = [row for row in rows if row.kind == "baseline"]
    choices = [row for row in rows if row.kind != "stage"]
    allowed = _allowed(choices, teacher, budget, scale)
    best = _smallest_of_the_fastest(allowed)
    best_free = min(_allowed(free, teacher, budget, scale), key=lambda row: row.p50)
    interval = speedup(best_free.name, best.name) if speedup else None
    if best_free in allowed and not gained(_metrics(best_free), _metrics(best), budget, speedup=interval, scale=scale):
        best = best_free
    why_not = tuple(_faults(best, teacher, budget, scale))
    own = [row for row in free if row.title == teacher.title and row.precision != "int8"]
    fastest_float = min(own, key=lambda row: row.p50, default=teacher)
    return Verdict(
        within_budget=not why_not,
        best=best.name,
        speedup_vs_teacher_fp32=teacher.p50 / best.p50,
        speedup_vs_best_free=best_free.p50 / best.p50,
        accuracy_drop_points=points(teacher.metric.value - best.metric.value, scale),
        why_not=why_not,
        fastest_float=fastest_float.name,
        speedup_vs_fastest_float=fastest_float.p50 / best.p50,
        speedup_interval=speedup(teacher.name, best.name) if speedup else None,
        is_free_within_budget=not _over_cost(best_free, budget),
        is_quiet=is_quiet,
    )


def settled_on(report: Report, name: str) -> Verdict:
    """Return the verdict of a report where the row called ``name`` ships, whichever is the best."""
    before, row, teacher = report.verdict, report.row(name), report.teacher
    slower = report.row(before.best).p50 / row.p50
    why_not = tuple(_faults(row, teacher, report.budget, report.scale))
    return replace(
        before,
        within_budget=not why_not,
        best=name,
        speedup_vs_teacher_fp32=teacher.p50 / row.p50,
        speedup_vs_best_free=before.speedup_vs_best_free * slower,
        accuracy_drop_points=points(teacher.metric.value - row.metric.value, report.scale),
        why_not=why_not,
        speedup_vs_fastest_float=None
        if before.speedup_vs_fastest_float is None
        else before.speedup_vs_fastest_float * slower,
        speedup_interval=None,
    )


def fitting_rows(rows: Sequence[Row], budget: Budget, *, scale: float) -> list[Row]:
    """List the rows that may ship and are within the whole budget on validation; the first is the teacher's reference."""
    choices = [row for row in rows if row.kind != "stage"]
    return [row for row in _allowed(choices, rows[0], budget, scale) if not _over_cost(row, budget)]


def not_clean(doubts: Sequence[str], url: str) -> tuple[str, ...]:
    """Return the warning that the rows' latencies are in doubt; none without doubts."""
    return (f"{NOT_CLEAN}: while measuring on {url}, {'; '.join(doubts)}",) if doubts else ()


def ran_elsewhere(remarks: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a warning for each row of which a runtime ran a part elsewhere than it was asked to; rows alike as one.

    Args:
        remarks: names of rows, with what their engines say of it; empty where nothing ran elsewhere.
    """
    rows: dict[str, list[str]] = {}
    for name, remark in remarks:
        rows.setdefault(remark, []).append(name)
    return tuple(f"{', '.join(names)}: {remark}" for remark, names in rows.items() if remark)


def find_warnings(rows: Sequence[Row], *, scale: float = 100.0, is_trained_here: bool = False) -> tuple[str, ...]:
    """List what a reader should know before believing the verdict.

    Args:
        scale: of the task's metric.
        is_trained_here: whether the run trained its teacher itself, on the training split alone.
    """
    teacher = rows[0]
    samples = teacher.validation_samples or teacher.metric.samples
    gap = points(teacher.validation - teacher.metric.value, scale)
    noise = 100 * _gap_error(teacher.validation / scale, samples, teacher.metric.value / scale, teacher.metric.samples)
    if is_trained_here or gap <= max(LEAST_GAP_POINTS, GAP_ERRORS * noise):
        return ()
    return (
        f"the teacher has {teacher.validation:.2f} on validation ({samples} samples) and {teacher.metric.value:.2f} on test "
        f"({teacher.metric.samples} samples), {gap / noise:.1f} standard errors apart: it seems to have been "
        "trained on the validation samples, so the gate compared students with a figure that none can reach; "
        "hold validation out of data that the checkpoint has not seen",
    )


def _gap_error(one: float, samples: int, other: float, others: int) -> float:
    """Return the standard error of the difference of two shares of so many samples, were both from one (pooled binomial)."""
    share = (one * samples + other * others) / (samples + others)
    return max(math.sqrt(share * (1 - share) * (1 / samples + 1 / others)), 1 / (samples + others))


def _allowed(rows: Sequence[Row], teacher: Row, budget: Budget, scale: float) -> Sequence[Row]:
    """Keep the rows within the budget on validation; without any, those within its accuracy (the teacher always is)."""
    accurate = [row for row in rows if within_accuracy(points(teacher.validation - row.validation, scale), budget)]
    within = [row for row in accurate if not _over_cost(row, budget)]
    return within or accurate


def _metrics(row: Row) -> ModelMetrics:
    """Describe a row as the gate sees it."""
    return ModelMetrics(
        accuracy=row.validation,
        latency_ms=row.p50,
        form=f"{row.engine} {row.precision}",
        shipped_accuracy=row.validation,
        size_bytes=row.size_bytes,
        stored_bytes=row.stored_bytes or row.size_bytes,
        packed=row.packed is not None,
    )


def _smallest_of_the_fastest(rows: Sequence[Row]) -> Row:
    """Choose the fastest row; of packed ones as fast within measurement, the one that takes least to store."""
    fastest = min(rows, key=lambda row: row.p50)
    alike = [row for row in rows if row.packed is not None and not is_loss(fastest.p50, row.p50)]
    return min(alike, key=lambda row: row.stored_bytes or 0) if alike else fastest


def _over_cost(row: Row, budget: Budget) -> list[str]:
    over: list[str] = []
    if budget.latency_ms_p50 is not None and row.p50 > budget.latency_ms_p50:
        over.append(f"p50 {row.p50:.3f} ms is over the budget of {budget.latency_ms_p50:g} ms")
    if budget.size_mib is not None and row.size_bytes > budget.size_mib * 2**20:
        over.append(f"size {row.size_bytes / 2**20:.3f} MiB is over the budget of {budget.size_mib:g} MiB")
    if budget.stored_mib is not None and row.stored_bytes is not None and row.stored_bytes > budget.stored_mib * 2**20:
        over.append(f"{row.stored_bytes / 2**20:.3f} MiB in the bundle are over the budget of {budget.stored_mib:g} MiB")
    if budget.total_ms is not None and (row.path_ms is None or row.path_ms.total.p50 > budget.total_ms):
        told = "unknown" if row.path_ms is None else f"{row.path_ms.total.p50:.3f} ms"
        over.append(f"the whole path, {told}, is over the budget of {budget.total_ms:g} ms")
    if budget.peak_mib is not None and (row.peak_mib is None or row.peak_mib > budget.peak_mib):
        told = "unknown" if row.peak_mib is None else f"{row.peak_mib:.1f} MiB"
        over.append(f"peak memory, {told}, is over the budget of {budget.peak_mib:g} MiB")
    if budget.load_ms is not None and (row.load_ms is None or row.load_ms > budget.load_ms):
        told = "unknown" if row.load_ms is None else f"{row.load_ms:.0f} ms"
        over.append(f"the time to load, {told}, is over the budget of {budget.load_ms:g} ms")
    return over


def _faults(best: Row, teacher: Row, budget: Budget, scale: float) -> list[str]:
    drop = points(teacher.metric.value - best.metric.value, scale)
    faults = _over_cost(best, budget)
    if not within_accuracy(drop, budget):
        faults.append(f"{drop:.2f} points below the teacher on test; the budget is {budget.accuracy_drop_points:g}")
    return faults
