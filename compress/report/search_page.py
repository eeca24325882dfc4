"""The front of a search as one page: no network, everything inline. Plotly draws; the page's own script picks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.report.picture import as_script, plotly_script, templates
from compress.report.search_record import DeviceFront, Point, SearchReport, TrialRecord, describe
from deploy.files import write_atomically

PAGE = "search.html"
KINDS = {
    "free": ("free: the untouched teacher", "#5b6770", "diamond"),
    "stopped": ("stopped", "#c9a227", "x-thin-open"),
    "finished": ("finished", "#6f8fb3", "circle"),
    "front": ("on the front", "#0f766e", "circle"),
}
"""Words, colour and symbol of each kind of points."""


def write(report: SearchReport, out: Path) -> None:
    """Write ``search.html``."""
    write_atomically(out / PAGE, page(report).encode())


def page(report: SearchReport) -> str:
    """Render a search as HTML; plotly is installed."""
    fronts = [_front(front) for front in report.fronts]
    data = as_script({"name": report.name, "split": "validation", "kinds": KINDS, "fronts": fronts})
    template = templates().get_template("search.html.j2")
    return str(template.render(report=report, plotly=plotly_script(), data=data))


def _front(front: DeviceFront) -> dict[str, Any]:
    best = {trial.number for trial in front.front}
    points = [_free(point, front) for point in front.free]
    points += [_trial(trial, trial.point, trial.number in best) for trial in front.trials if trial.point is not None]
    return {
        "device": front.device,
        "metric": front.metric,
        "unit": front.unit,
        "least": front.least_accuracy,
        "start_ms": front.latency_budget_ms,
        "points": points,
    }


def _free(point: Point, front: DeviceFront) -> dict[str, Any]:
    allowed = point.accuracy >= front.least_accuracy
    about = {"kind": "free", "name": "the untouched teacher", "done": "nothing: no training", "reason": "", "recipe": ""}
    return {**about, **_figures(point), "allowed": allowed, "number": None, "is_choice": True, "on_front": False}


def _trial(trial: TrialRecord, point: Point, is_best: bool) -> dict[str, Any]:
    kind = "stopped" if trial.state == "stopped" else "front" if is_best else "finished"
    about = {"kind": kind, "name": f"trial {trial.number}", "done": describe(trial), "number": trial.number}
    told = {"reason": trial.reason or "; ".join(trial.faults), "recipe": trial.recipe}
    figures = {**_figures(point), **({} if trial.share else {"accuracy": None})}
    is_done = trial.state == "finished"
    marks = {"allowed": is_done and not trial.faults, "is_choice": is_done, "on_front": kind == "front"}
    return {**about, **told, **figures, **marks}


def _figures(point: Point) -> dict[str, Any]:
    bounds = {"low": point.low_ms, "high": point.high_ms}
    return {
        "form": point.form,
        "ms": point.latency_ms,
        **bounds,
        "accuracy": point.accuracy,
        "kib": point.stored_bytes / 1024,
        "peak_mib": point.peak_mib,
        "energy_mj": point.energy_mj,
    }
