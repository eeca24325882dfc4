"""compress cascade."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("small", type=click.Path(path_type=Path))
@click.argument("large", type=click.Path(path_type=Path))
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="Where both are timed.")
@click.option("--recipe", metavar="RECIPE", help="Its task and data choose and judge; else the run's own.")
@click.option(
    "--most-less", type=click.FloatRange(0), default=0.0, help="Points that both may be below LARGE on validation. [0]"
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=10.0, help="For timing both, together. [10]")
@click.option("--out", type=click.Path(path_type=Path), help="Where both bundles and the margin go.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def cascade(
    small: Path,
    large: Path,
    device: str,
    recipe: str | None,
    most_less: float,
    seconds: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Let SMALL answer where it is sure and LARGE elsewhere: what that is worth. Each is a run, a bundle or an ONNX file."""
    from compress.execution.progress import StreamProgress
    from compress.pipeline.cascade import cascade as make

    how: dict[str, Any] = {"device": device, "recipe": recipe, "most_less": most_less, "seconds": seconds}
    found = make(small, large, **how, out=out, progress=StreamProgress())
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else found)
    return 0
