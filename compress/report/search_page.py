"""The front of a search as one page: no network, everything inline. Plotly draws; the page's own script picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.report.search_record import DeviceFront, Point, SearchReport, TrialRecord, describe
from deploy.files import write_atomically
from profiles.errors import UserError

PAGE = "search.html"
FOLDER = Path(__file__).parent


def write(report: SearchReport, out: Path) -> None:
    """Write ``search.html``."""
    write_atomically(out / PAGE, page(report).encode())


def page(report: SearchReport) -> str:
    """Render a search as HTML.

    Raises:
        UserError: plotly is not installed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("compress search needs plotly: pip install 'edge-compress[search]'") from None
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    data = {"name": report.name, "fronts": [_front(front) for front in report.fronts]}
    # Within a script of HTML a text may hold anything but the end of the script.
    text = json.dumps(data, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\!--")
    template = environment.get_template("search.html.j2")
    return template.render(name=report.name, plotly=get_plotlyjs(), data=text, fronts=report.fronts)


def _front(front: DeviceFront) -> dict[str, Any]:
    best = {trial.number for trial in front.front}
    points = [_free(point, front) for point in front.free]
    points += [_trial(trial, trial.point, trial.number in best) for trial in front.trials if trial.point is not None]
    return {
        "device": front.device,
        "metric": front.metric,
        "unit": front.unit,
        "least": front.least_accuracy,
        "budget_ms": front.latency_budget_ms,
        "points": points,
    }


def _free(point: Point, front: DeviceFront) -> dict[str, Any]:
    allowed = point.accuracy >= front.least_accuracy
    about = {"kind": "free", "name": "the untouched teacher", "done": "nothing: no training", "reason": "", "recipe": ""}
    return {**about, **_figures(point), "allowed": allowed, "number": None}


def _trial(trial: TrialRecord, point: Point, is_best: bool) -> dict[str, Any]:
    kind = "stopped" if trial.state == "stopped" else "front" if is_best else "finished"
    about = {"kind": kind, "name": f"trial {trial.number}", "done": describe(trial), "number": trial.number}
    told = {"reason": trial.reason or "; ".join(trial.faults), "recipe": trial.recipe}
    figures = {**_figures(point), **({} if trial.share else {"accuracy": None})}
    return {**about, **told, **figures, "allowed": trial.state == "finished" and not trial.faults}


def _figures(point: Point) -> dict[str, Any]:
    bounds = {"low": point.low_ms, "high": point.high_ms}
    return {
        "form": point.form,
        "ms": point.latency_ms,
        **bounds,
        "accuracy": point.accuracy,
        "kib": point.stored_bytes / 1024,
    }
