"""compress run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from compress.recipe.spec import Recipe
    from compress.report.devices_record import DevicesReport
    from compress.report.record import Report

FAILED, OVER_BUDGET = 1, 3


@click.command()
@click.argument("recipe", default="digits")
@click.option(
    "--device",
    "-d",
    "devices",
    multiple=True,
    default=("cpu",),
    metavar="PROFILE[@URL]",
    help="What to compress for; several may be given, and share what they can. [cpu]",
)
@click.option("--train-each", is_flag=True, help="Of several devices, each trains its own where another's would do.")
@click.option("--engines", metavar="NAME,...", help="The runtimes to race, in the place of the profile's.")
@click.option("--out", type=click.Path(path_type=Path), help="Where reports and bundles go. [runs/RECIPE-DEVICE]")
@click.option(
    "--trial", type=click.IntRange(0), metavar="N", help="The recipe of that trial of a search, in RECIPE's place."
)
@click.option("--join", metavar="URL", help="Storage of that search. [the file in runs/RECIPE-search]")
@click.option("--until", metavar="STAGE", help="Stop after this stage, and report.")
@click.option("--quiet-seconds", type=click.FloatRange(0), help="How long a race waits for a device that others use. [60]")
@click.option("--lock-clocks", is_flag=True, help="Hold the device's clocks while it measures; they are put back after.")
@click.option("--measure-again", is_flag=True, help="Time again what exists; train nothing.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, once the data opens; touch nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(
    recipe: str,
    devices: tuple[str, ...],
    train_each: bool,
    engines: str | None,
    out: Path | None,
    trial: int | None,
    join: str | None,
    until: str | None,
    quiet_seconds: float | None,
    lock_clocks: bool,
    measure_again: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Take a checkpoint to a measured, gated student and a bundle.

    RECIPE is a TOML file or a built-in recipe's name: digits, which is also what is run without one (handwritten digits,
    a few minutes).
    """
    from compress.execution import distributed
    from compress.execution.progress import StreamProgress

    named = None if engines is None else [name.strip() for name in engines.split(",") if name.strip()]
    device: str | tuple[str, ...] = devices[0] if len(devices) == 1 else devices
    if dry_run:
        from compress.api import run as api

        plans = [_dry(partial(api.recipe_of, recipe, trial, device, join), each, until, named) for each in devices]
        click.echo(json.dumps(plans[0] if len(plans) == 1 else plans, indent=1))
        return 0
    progress = StreamProgress(None if distributed.is_main() else io.StringIO())
    with progress.keep_telling():
        with progress.doing("loading PyTorch"):
            from compress.api import run as api
            from compress.cli.options import terminal_width
            from compress.report.devices_record import DevicesReport
            from compress.report.table import table
        how: dict[str, Any] = {
            "engines": named,
            "out": out,
            "trial": trial,
            "join": join,
            "until": until,
            "lock_clocks": lock_clocks,
            "quiet_seconds": quiet_seconds,
            "measure_again": measure_again,
            "train_each": train_each,
            "progress": progress,
        }
        report: Report | DevicesReport = api.run(recipe, device=device, **how)
    if not distributed.is_main():
        return 0
    if isinstance(report, DevicesReport):
        return _tell_devices(report, out or api.default_folder(report.name, api.DEVICES), as_json=as_json)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1, default=dict))
    else:
        folder = out or api.default_folder(report.recipe["name"], report.device["name"])
        click.echo(table(report, width=terminal_width()))
        state = _state(folder / "bundle", within_budget=report.verdict.within_budget)
        click.echo(f"{folder / 'report.html'} has the pictures; {folder / 'bundle'} {state}.", err=True)
    return 0 if report.verdict.within_budget else OVER_BUDGET


def _tell_devices(report: DevicesReport, folder: Path, *, as_json: bool) -> int:
    """Print what several devices came to; return the exit code."""
    click.echo(json.dumps(report.as_json(), indent=1, default=dict) if as_json else report)
    for device, one in report.reports.items():
        state = _state(folder / device / "bundle", within_budget=one.verdict.within_budget)
        click.echo(f"{folder / device / 'bundle'} {state}.", err=True)
    click.echo(f"{folder / 'devices.html'} has all devices, and links the report of each.", err=True)
    if report.faults:
        return FAILED
    return 0 if report.within_budget else OVER_BUDGET


def _state(bundle: Path, *, within_budget: bool) -> str:
    """Say whether a bundle is ready to ship, or what is in the way."""
    from deploy.bundle.manifest import SIGNATURE

    unsigned = not (bundle / SIGNATURE).is_file()
    faults = [*(["over the budget"] if not within_budget else []), *(["not signed"] if unsigned else [])]
    return f"is {' and '.join(faults)}: not ready to ship" if faults else "is ready to ship"


def _dry(recipe: Callable[[], Recipe], device: str, until: str | None, engines: list[str] | None) -> dict[str, object]:
    """Describe what a run would do."""
    from compress.api import run as api
    from compress.pipeline import dry_run
    from compress.pipeline.run import until_stage
    from compress.pipeline.target import resolve, runtime_versions
    from deploy.engines import engine

    asked, target = api.resolve(recipe, partial(resolve, device, engines))
    target.tell_warnings(partial(click.echo, err=True))
    dry_run.check(asked)
    versions, plans = runtime_versions(target.device), []
    for runtime in target.profile.runtimes:
        version = versions[runtime.engine]
        plans += [engine(runtime.engine).plan(target.profile, p, version).as_json() for p in runtime.precisions]
    return {
        "recipe": asked.as_json(),
        "stages": [stage.name for stage in until_stage(asked, until)],
        "device": target.profile.as_json(),
        "build_plans": plans,
    }
