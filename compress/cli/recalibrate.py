"""compress recalibrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from calib.ranges import METHODS


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--samples", required=True, metavar="FOLDER|NPZ|RECIPE", help="What it will see; labels also judge.")
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="Where it is proven.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the new bundle goes.  [BUNDLE-recalibrated]")
@click.option("--ranges", type=click.Choice([*METHODS]), default="norm", show_default=True, help="How a range is chosen.")
@click.option(
    "--most-less", type=click.FloatRange(0), default=0.5, show_default=True, help="Points that it may be less accurate."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def recalibrate(
    bundle: Path, samples: str, device: str, out: Path | None, ranges: Any, most_less: float, *, as_json: bool
) -> int:
    """Make new activation ranges for an int8 BUNDLE of new samples, prove them, and write a new bundle beside it.

    Exit code 0: it was written; 1: it was not good enough.
    """
    from compress.execution.progress import StreamProgress
    from compress.pipeline.recalibration.recalibrate import recalibrate as make

    how: dict[str, Any] = {"device": device, "out": out, "ranges": ranges, "most_less": most_less}
    found = make(bundle, samples, **how, progress=StreamProgress())
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else found)
    return found.exit_code
