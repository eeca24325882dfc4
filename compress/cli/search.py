"""compress search."""

from __future__ import annotations

import json
from pathlib import Path

import click

FAILED = 1


@click.command()
@click.argument("recipe", default="digits")
@click.option(
    "--device", "-d", "devices", multiple=True, default=("cpu",), metavar="PROFILE[@URL]", help="Several may be given."
)
@click.option("--trials", type=click.IntRange(1), help="Of all processes together, on each device. [30, or until --hours]")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="That this process works, at most.")
@click.option(
    "--join",
    metavar="URL",
    help="Work on one search with other processes: sqlite:///FILE, postgresql://..., journal://FILE.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the front goes. [runs/RECIPE-search]")
@click.option("--quiet-seconds", type=click.FloatRange(0), help="How long a race waits for a device that others use. [60]")
@click.option(
    "--heartbeat", type=click.IntRange(1), default=30, help="Seconds; a trial without four is given out again. [30]"
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def search(
    recipe: str,
    devices: tuple[str, ...],
    trials: int | None,
    hours: float | None,
    join: str | None,
    out: Path | None,
    quiet_seconds: float | None,
    heartbeat: int,
    as_json: bool,
) -> int:
    """Search RECIPE's [search] space, or the one that follows from it, for the front of accuracy and costs.

    `compress run RECIPE --trial N` makes a point of it with everything that a run does.
    """
    from compress.api import search as api
    from compress.execution.progress import StreamProgress
    from compress.pipeline.search.search import study_url

    found = api.search(
        recipe,
        devices=devices,
        trials=trials,
        hours=hours,
        join=join,
        out=out,
        quiet_seconds=quiet_seconds,
        heartbeat_s=heartbeat,
        progress=StreamProgress(),
    )
    click.echo(json.dumps(found.as_json(), indent=1, default=dict) if as_json else found)
    folder = out or api.search_folder(found.name)
    kept = join or (study_url(folder) if out else "")
    point = f"compress run {recipe} --trial N{f' --join {kept}' if kept else ''}"
    click.echo(f"{folder / 'search.html'} is the picture; `{point}` makes a point of it.", err=True)
    return FAILED if found.faults else 0
