"""The final verdict on the rows of a report, and warnings about them."""

from __future__ import annotations

from collections.abc import Sequence

from compress.methods.cost_model import LEAST_GAIN
from compress.recipe.spec import Budget
from compress.report.record import MOST_GAP_POINTS, Row, Verdict


def conclude(rows: Sequence[Row], budget: Budget) -> Verdict:
    """The verdict on ``rows``, of which the first is the teacher's reference row.

    The choice looks at validation alone; whether the chosen row keeps the budget is then told from test.
    """
    teacher = rows[0]
    free = [row for row in rows if row.kind == "baseline"]
    choices = [row for row in rows if row.kind != "stage"]
    best = _smallest_of_the_fastest(_allowed(choices, teacher, budget))
    best_free = min(_allowed(free, teacher, budget), key=lambda row: row.p50)
    why_not = tuple(_faults(best, teacher, budget))
    return Verdict(
        within_budget=not why_not,
        best=best.name,
        speedup_vs_teacher_fp32=teacher.p50 / best.p50,
        speedup_vs_best_free=best_free.p50 / best.p50,
        accuracy_drop_points=teacher.metric.value - best.metric.value,
        why_not=why_not,
    )


def suspicions(rows: Sequence[Row]) -> tuple[str, ...]:
    """What in the rows a reader should know before believing the verdict."""
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
    """The rows within the budget on validation; without any, those within its accuracy (the teacher always is)."""
    accurate = [r for r in rows if teacher.validation - r.validation <= budget.accuracy_drop_points + 1e-9]
    within = [r for r in accurate if not _over_cost(r, budget)]
    return within or accurate


def _smallest_of_the_fastest(rows: Sequence[Row]) -> Row:
    """The fastest row; of packed ones that are as fast as measurement can tell, the one that takes least to store."""
    fastest = min(rows, key=lambda row: row.p50)
    alike = [row for row in rows if row.packed is not None and row.p50 <= fastest.p50 * LEAST_GAIN]
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
    if drop > budget.accuracy_drop_points + 1e-9:
        faults.append(f"{drop:.2f} points below the teacher on test; the budget is {budget.accuracy_drop_points:g}")
    return faults
