"""compress check."""

from __future__ import annotations

import json
from pathlib import Path

import click

MOST_PERCENT = 1000


def _percent(context: click.Context, option: click.Parameter, value: str) -> float:
    """Read a number of per cent, with the sign or without: ``3%`` or ``3``."""
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number of per cent; write 3% or 3") from None
    if not 0 <= number < MOST_PERCENT:
        raise click.BadParameter(f"{value!r}: 0 or more per cent, below {MOST_PERCENT}")
    return number


@click.command()
@click.argument("models", nargs=-1, metavar="OLD NEW", required=True, type=click.Path(path_type=Path))
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="Where both are timed.")
@click.option("--most-slower", callback=_percent, default="3%", show_default=True, help="How much slower NEW may be.")
@click.option("--most-less", type=click.FloatRange(0), help="Points of the metric that NEW may be below OLD. [0.5]")
@click.option("--recipe", metavar="RECIPE", help="Its task and data are what both are judged on; else the run's own.")
@click.option("--against", type=click.Choice(["last"]), help="Take for OLD the last model that --keep kept; give NEW alone.")
@click.option("--keep", is_flag=True, help="Keep NEW as the last, unless it is worse.")
@click.option("--engine", metavar="NAME", help="Of ONNX files; else the device's first that runs them.")
@click.option("--precision", help="Of ONNX files; else int8 for Q/DQ pairs, fp16 for half weights, fp32.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="For timing, at most."
)
@click.option("--lock-clocks", is_flag=True, help="Hold the device's clocks while it measures; they are put back after.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML there.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Append Markdown there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def check(
    models: tuple[Path, ...],
    device: str,
    most_slower: float,
    most_less: float | None,
    recipe: str | None,
    against: str | None,
    keep: bool,
    engine: str | None,
    precision: str | None,
    seconds: float,
    lock_clocks: bool,
    junit: Path | None,
    summary: Path | None,
    as_json: bool,
) -> int:
    """Tell whether NEW is slower or less accurate than OLD on a device; each is a run, a bundle or an ONNX file.

    Exit code 0: no; 1: it is worse; 3: that cannot be told in this time, or with these samples.
    """
    wanted = 1 if against else 2
    if len(models) != wanted:
        raise click.UsageError(f"{'NEW alone goes with --against last' if against else 'OLD and NEW'}; given: {len(models)}")
    from compress.execution.progress import StreamProgress
    from compress.pipeline.check import compare

    found = compare.check(
        None if against else models[0],
        models[-1],
        device=device,
        most_slower=most_slower,
        most_less=most_less,
        recipe=recipe,
        engine=engine,
        precision=precision,
        seconds=seconds,
        keep=keep,
        lock_clocks=lock_clocks,
        progress=StreamProgress(),
    )
    click.echo(json.dumps(found.as_json(), indent=1, default=dict) if as_json else found)
    if junit is not None:
        junit.write_text(found.junit())
    if summary is not None:
        with summary.open("a") as file:
            file.write(found.markdown())
    return found.exit_code
