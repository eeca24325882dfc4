"""The rows of a report as data of the interactive picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.report.record import Report, Row

KINDS = {
    "baseline": ("free", "#5b6770", "diamond"),
    "stage": ("stage attempts", "#c77700", "x-thin-open"),
    "student": ("the student", "#00796b", "circle"),
}
"""Words, colour and symbol of each kind of rows."""


def rows_picture(report: Report) -> dict[str, Any]:
    """Describe every row: figures, what was done, why it is no choice; accuracy is on test, as in the table."""
    front = {row.name for row in pareto([row for row in report.rows if row.kind != "stage"])}
    points = [_point(row, report, on_front=row.name in front) for row in report.rows]
    metric, share = report.teacher.metric, report.scale / 100
    about = {"device": report.device["title"], "metric": metric.name, "unit": metric.unit}
    least = metric.value - report.budget.accuracy_drop_points * share
    start_ms = report.budget.latency_ms_p50 or report.row(report.verdict.best).p50
    drawn = {**about, "least": least, "start_ms": start_ms, "points": points}
    return {"name": report.recipe["name"], "split": "test", "kinds": KINDS, "fronts": [drawn]}


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row beats in both latency and metric, fastest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.p50, -r.metric.value)):
        if not front or row.metric.value > front[-1].metric.value:
            front.append(row)
    return front


def _point(row: Row, report: Report, *, on_front: bool) -> dict[str, Any]:
    drop = (report.teacher.validation - row.validation) * 100 / report.scale
    best = "the best row; " if row.name == report.verdict.best else ""
    stored = row.size_bytes if row.stored_bytes is None else row.stored_bytes
    return {
        "name": row.title,
        "kind": row.kind,
        "form": f"{row.engine} {row.precision}",
        "done": f"{best}{report.teacher.p50 / row.p50:.2f}x the teacher's speed; {row.validation:.2f} on validation",
        "reason": f"{row.decision}: {row.reason}" if row.reason else "",
        "recipe": "",
        "ms": row.p50,
        "low": None,
        "high": None,
        "accuracy": row.metric.value,
        "kib": stored / 1024,
        "peak_mib": row.peak_mib,
        "energy_mj": row.energy_mj,
        "allowed": drop <= report.budget.accuracy_drop_points + 1e-9,
        "is_choice": row.kind != "stage",
        "on_front": on_front,
    }
