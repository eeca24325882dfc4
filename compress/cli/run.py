"""compress run."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import click

from profiles.errors import UserError

OVER_BUDGET = 3


@click.command()
@click.argument("recipe", default="digits")
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="What to compress for.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the report and the bundle go. [runs/RECIPE-DEVICE]")
@click.option("--until", metavar="STAGE", help="Stop after this stage, and report.")
@click.option("--lock-clocks", is_flag=True, help="Hold the device's clocks while it measures; they are put back after.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; touch nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(
    recipe: str, device: str, out: Path | None, until: str | None, lock_clocks: bool, dry_run: bool, as_json: bool
) -> int:
    """Take a checkpoint to a measured, gated student and a bundle.

    RECIPE is a TOML file or a built-in recipe's name (digits).
    """
    from compress.cli.options import target
    from compress.execution import distributed
    from compress.execution.progress import StreamProgress
    from compress.pipeline import run as pipeline
    from compress.pipeline.target import runtime_versions
    from compress.recipe.parse import load
    from compress.recipe.spec import Recipe
    from compress.report.table import table

    faults: list[str] = []
    found: Recipe | None = None
    try:
        found = load(recipe)
    except UserError as error:
        faults += error.faults
    try:
        resolved = target(device)
    except UserError as error:
        raise UserError(*faults, *error.faults) from None
    if faults or found is None:
        raise UserError(*faults)
    profile, there = resolved.profile, resolved.device
    if dry_run:
        click.echo(json.dumps(_dry(found, profile, until, runtime_versions(there)), indent=1))
        return 0
    folder = out or Path("runs") / f"{found.name}-{profile.name}"
    steps = Path(os.environ.get("COMPRESS_STEPS", "runs/.steps"))
    progress = StreamProgress(None if distributed.is_main() else io.StringIO())
    report = pipeline.run(found, profile, there, folder, steps, progress, until, lock_clocks=lock_clocks)
    if not distributed.is_main():
        return 0
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1, default=dict))
    else:
        click.echo(table(report, width=_width()))
        click.echo(f"{folder / 'report.html'} has the pictures; {folder / 'bundle'} is ready to ship.", err=True)
    return 0 if report.verdict.within_budget else OVER_BUDGET


def _dry(recipe: object, profile: object, until: str | None, versions: dict[str, str]) -> dict[str, object]:
    from compress.pipeline.run import until_stage
    from compress.recipe.spec import Recipe
    from deploy.engines import engine
    from profiles.device import DeviceProfile

    assert isinstance(recipe, Recipe) and isinstance(profile, DeviceProfile)
    plans = []
    for runtime in profile.runtimes:
        version = versions[runtime.engine]
        plans += [engine(runtime.engine).plan(profile, p, version).as_json() for p in runtime.precisions]
    return {
        "recipe": recipe.as_json(),
        "stages": [stage.name for stage in until_stage(recipe, until)],
        "device": profile.as_json(),
        "build_plans": plans,
    }


def _width() -> int:
    import shutil

    return max(shutil.get_terminal_size((150, 24)).columns, 130)
