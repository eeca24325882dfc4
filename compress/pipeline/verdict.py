"""Final verdict on the rows of a report, and warnings about them."""

from __future__ import annotations

from collections.abc import Sequence

from compress.methods.cost_model import is_loss
from compress.pipeline.gate import ModelMetrics, gained, within_accuracy
from compress.recipe.spec import Budget
from compress.report.record import MOST_GAP_POINTS, Row, Verdict


def conclude(rows: Sequence[Row], budget: Budget) -> Verdict:
    """Choose the row to ship; the first of ``rows`` is the teacher's reference row.

    The choice looks at validation alone; whether the chosen row keeps the budget is then read from test. A student is chosen
    where the gate's rule finds a gain over the best free row; else that row is the answer.
    """
    teacher = rows[0]
    free = [row for row in rows if row.kind == "baseline"]
    choices = [row for row in rows if row.kind != "stage"]
    allowed = _allowed(choices, teacher, budget)
    best = _smallest_of_the_fastest(allowed)
    best_free = min(_allowed(free, teacher, budget), key=lambda row: row.p50)
    if best_free in allowed and not gained(_metrics(best_free), _metrics(best), budget):
        best = best_free
    why_not = tuple(_faults(best, teacher, budget))
    return Verdict(
        within_budget=not why_not,
        best=best.name,
        speedup_vs_teacher_fp32=teacher.p50 / best.p50,
        speedup_vs_best_free=best_free.p50 / best.p50,
        accuracy_drop_points=teacher.metric.value - best.metric.value,
        why_not=why_not,
    )


def find_warnings(rows: Sequence[Row]) -> tuple[str, ...]:
    """List what a reader should know before believing the verdict."""
    teacher = rows[0]
    gap = teacher.validation - teacher.metric.value
    if gap <= MOST_GAP_POINTS:
        return ()
    return (
        f"the teacher has {teacher.validation:.2f} on validation and {teacher.metric.value:.2f} on test: it seems to "
        "have been trained on the validation samples, so the gate compared students with a figure that none can reach; "
        "hold validation out of data that the checkpoint has not seen",
    )


def _allowed(rows: Sequence[Row], teacher: Row, budget: Budget) -> Sequence[Row]:
    """Keep the rows within the budget on validation; without any, those within its accuracy (the teacher always is)."""
    accurate = [row for row in rows if within_accuracy(teacher.validation - row.validation, budget)]
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
    return over


def _faults(best: Row, teacher: Row, budget: Budget) -> list[str]:
    drop = teacher.metric.value - best.metric.value
    faults = _over_cost(best, budget)
    if not within_accuracy(drop, budget):
        faults.append(f"{drop:.2f} points below the teacher on test; the budget is {budget.accuracy_drop_points:g}")
    return faults
