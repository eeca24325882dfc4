"""The rows of a finished run, timed again: no model is built, trained or judged, and no PyTorch is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from compress.execution.cache import Step, StepCache
from compress.execution.locks import only_writer
from compress.execution.progress import Progress
from compress.pipeline.races import RaceOptions, RaceResult, Races, device_key, facts_and_setting
from compress.pipeline.verdict import NOT_CLEAN, conclude, not_clean
from compress.pipeline.whole_path import kept_path
from compress.report import html
from compress.report.record import Report, Row, read
from deploy.bundle import golden
from deploy.devices import device
from deploy.engines.inputs import count, rows
from deploy.engines.serving import part
from deploy.measure.load import default_quiet_s
from deploy.worker.pool import WorkerPool
from profiles.errors import UserError

KEY = re.compile(r"engine-[0-9a-f]{20}")
GOLDEN = "bundle/golden.npz"
WITHOUT = "run `compress run --measure-again` instead"


def measure_rows_again(
    run: Path, steps: Path, progress: Progress, *, quiet_seconds: float | None = None, lock_clocks: bool = False
) -> Report:
    """Time every row of the report in ``run`` again, all in one race, and write report.json and report.html anew.

    Args:
        steps: the folder of finished steps, where the built engines are.
        quiet_seconds: how long to wait for a device that others use; 60 without.

    Raises:
        UserError: no report, or engines or inputs that are not there any more.
    """
    report = read(run)
    engines = _engines(report, steps)
    if not (run / GOLDEN).is_file():
        raise UserError(f"{run}: no {GOLDEN}, whose inputs the engines would be timed on; {WITHOUT}")
    try:
        path = kept_path(run / "bundle")
        inputs, _ = golden.unpack(golden.read(run / GOLDEN))
        if report.folded is not None and path is not None:
            inputs = path.inputs()  # the golden ones are bytes, and the rows' engines take normalised floats
    except ValueError as error:
        raise UserError(f"{run}: {error}; {WITHOUT}") from None
    there = device(report.rows[0].runs_on)
    with only_writer(run):
        pool = WorkerPool(there)
        facts, setting = facts_and_setting(pool)
        races = Races(
            there,
            pool,
            StepCache(steps, progress, trains=False),
            progress,
            device_key=device_key(there.url, facts["device"]),
            setting=setting,
            feed=lambda samples: rows(inputs, np.arange(samples) % count(inputs)),  # from the first on again
            shares=lambda: _shares(report.rows[0]),
            options=RaceOptions(
                quiet_seconds=default_quiet_s() if quiet_seconds is None else quiet_seconds,
                lock_clocks=lock_clocks,
                again=True,
            ),
        )
        paths = {} if path is None else {row.raced_as: path for row in report.rows if row.path_ms is not None}
        raced = races.run(list(engines.values()), float(report.recipe["measure"]["seconds"]), paths)
        timed = _timed(report, engines, raced)
        timed.write(run)
        html.write(timed, run)
    if timed.verdict.best != report.verdict.best:
        progress.say(f"best is {timed.verdict.best} now, and {run / 'bundle'} holds {report.verdict.best}; {WITHOUT}")
    return timed


def _timed(report: Report, engines: dict[str, Step], raced: RaceResult) -> Report:
    """Return the report with the rows' new times, and the verdict by them."""
    rows = [_row(row, engines, raced) for row in report.rows]
    step_by_name = {row.name: engines[row.raced_as] for row in rows}
    doubts, url = raced.doubts, report.rows[0].runs_on
    return replace(
        report,
        rows=tuple(rows),
        environment={**report.environment, "conditions": raced.conditions},
        verdict=conclude(
            rows,
            report.budget,
            scale=report.scale,
            speedup=lambda one, other: raced.ratio(step_by_name[one], step_by_name[other]),
            is_quiet=not doubts,
        ),
        warnings=(*(w for w in report.warnings if not w.startswith(NOT_CLEAN)), *not_clean(doubts, url)),
    )


def _row(row: Row, engines: dict[str, Step], raced: RaceResult) -> Row:
    engine, below = engines[row.raced_as], [*_shares(row)]
    sizes = tuple(
        replace(each, p50_ms=raced.latency_of(engine, folder).p50 or 0.0)
        for each, folder in zip(row.sizes, below, strict=False)
    )
    energy_mj, costs = raced.energy_mj(engine), asdict(raced.footprint(engine))
    timed = replace(row, latency_ms=raced.latency(engine), energy_mj=energy_mj, sizes=sizes)
    return replace(timed, path_ms=raced.path_ms(engine), **costs)


def _shares(row: Row) -> dict[str, float]:
    """Return the share of samples of each folder below an engine's, the largest size's own being its root."""
    largest = max((each.size for each in row.sizes), default=0)
    return {"" if each.size == largest else part(each.size): each.share for each in row.sizes}


def _engines(report: Report, steps: Path) -> dict[str, Step]:
    """Return the built engines that were timed for the rows, by their keys."""
    keys = list(dict.fromkeys(row.raced_as for row in report.rows))
    missing: Sequence[str] = [key for key in keys if not KEY.fullmatch(key) or not (steps / key / "engine").is_dir()]
    if missing:
        named = "of an earlier version's report" if "" in missing else f"of its rows (such as {missing[0]})"
        raise UserError(f"{steps}: the engines {named} are not there; {WITHOUT}")
    return {key: Step(folder=steps / key, key=key, facts={}, seconds=0.0) for key in keys}
