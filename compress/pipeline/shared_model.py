"""One model for several devices: the one that loses least to each device's own best."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compress.pipeline.verdict import fitting_rows
from compress.report.record import Report, Row


def one_for_all(reports: Mapping[str, Report]) -> dict[str, str]:
    """Choose the model that is within the budget on every device and loses least time to the best row of each.

    A model is one by its float weights: each device has it in the integers and on the runtime that are fastest there. The
    loss is the geometric mean over devices of its p50 over the best row's; as all choices, by validation. Where the best
    rows are of one model it is that, though another that was not shown to be better was timed a little faster.

    Returns:
        The name of its row by device; empty where no model is within the budget on all.
    """
    fastest = {device: _fastest(report) for device, report in reports.items()}
    common = set.intersection(*(set(by_model) for by_model in fastest.values())) if fastest else set()
    if not common:
        return {}
    best = {device: report.row(report.verdict.best) for device, report in reports.items()}
    models = {row.model for row in best.values()}
    if len(models) == 1 and models <= common:
        return {device: row.name for device, row in best.items()}

    def loss(model: str) -> float:
        return sum(math.log(fastest[d][model].p50 / report.row(report.verdict.best).p50) for d, report in reports.items())

    chosen = min(sorted(common), key=loss)
    return {device: by_model[chosen].name for device, by_model in fastest.items()}


def _fastest(report: Report) -> dict[str, Row]:
    """Return the fastest row within the budget of each model, by the model's key."""
    found: dict[str, Row] = {}
    for row in sorted(fitting_rows(report.rows, report.budget, scale=report.scale), key=lambda row: row.p50):
        found.setdefault(row.model, row)
    return found
