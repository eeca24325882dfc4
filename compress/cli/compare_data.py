"""compress compare-data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

SET = "RECIPE[:SPLIT]|FOLDER|NPZ"


@click.command("compare-data")
@click.argument("a", metavar=SET)
@click.argument("b", metavar=SET)
@click.option("--model", type=click.Path(path_type=Path), help="Bundle, run or ONNX file; else the first recipe's teacher.")
@click.option("--samples", type=click.IntRange(2), default=512, show_default=True, help="Looked at of each set, at most.")
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="The p value below which they differ.",
)
@click.option("--draws", type=click.IntRange(1), default=999, show_default=True, help="Relabellings, if not all are taken.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compare_data(a: str, b: str, model: Path | None, samples: int, level: float, draws: int, *, as_json: bool) -> int:
    """Tell whether two sets of samples are alike to a model: calibration samples and a site's traffic, say.

    Exit code 0: they are alike; 1: they differ; 3: that cannot be told of so few.
    """
    from compress.execution.progress import StreamProgress
    from compress.pipeline.compare_data import compare_data as compare

    how: dict[str, Any] = {"model": model, "samples": samples, "level": level, "draws": draws}
    found = compare(a, b, **how, progress=StreamProgress())
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else found)
    return found.exit_code
