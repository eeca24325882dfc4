"""compress init."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from profiles.errors import UserError


@click.command()
@click.argument("model", default="")
@click.option("--data", metavar="PATH", help="A folder or file of data; or a source: digits, module:callable.")
@click.option("--device", "-d", metavar="PROFILE[@URL]", help="What to compress for. [cpu]")
@click.option("--weights", metavar="FILE", help="A checkpoint for MODEL, where that is a factory or a name.")
@click.option("--size", type=click.IntRange(1), metavar="PIXELS", help="Side of the input, instead of a guess.")
@click.option(
    "--minutes", type=click.FloatRange(0), default=20.0, show_default=True, help="For all trainings, on this machine."
)
@click.option(
    "--drop", "drop_points", type=click.FloatRange(0), default=1.0, show_default=True, help="Points of accuracy to lose."
)
@click.option("--random", is_flag=True, help="Random weights, though there are published ones.")
@click.option("--out", type=click.Path(path_type=Path), help="The recipe to write. [MODEL.toml]")
@click.option("--force", is_flag=True, help="Replace it.")
def init(
    model: str,
    data: str | None,
    device: str | None,
    weights: str | None,
    size: int | None,
    minutes: float,
    drop_points: float,
    random: bool,
    out: Path | None,
    force: bool,
) -> int:
    """Write a first recipe for a model, a folder of data and a device.

    MODEL is timm:NAME, torchvision:NAME, hf:OWNER/NAME, module:callable, a checkpoint or an .onnx file; for detection and
    segmentation it may be left out. Every guess is told, and stands in the recipe with what it rests on.
    """
    from compress.execution.progress import StreamProgress
    from compress.pipeline.drafting.draft import Asked, draft
    from compress.pipeline.target import with_address
    from profiles.device import load

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if data is None:
        if not asks:
            raise UserError("--data is missing: a folder of data, such as one with a folder of images for each class")
        data = click.prompt("Data: a folder with a folder of images for each class, or VOC, COCO, YOLO, .npz", err=True)
    if device is None:
        device = click.prompt("Device (compress profiles lists them)", default="cpu", err=True) if asks else "cpu"
    load(device.partition("@")[0])
    out = out or Path(f"{_name(model, data)}.toml")
    if out.exists() and not force:
        raise UserError(f"{out} is there already; --force replaces it, or write to another with --out")
    asked = Asked(
        data=data,
        model=model,
        weights=weights or "",
        device=device,
        size=size,
        minutes=minutes,
        drop_points=drop_points,
        random=random,
    )
    progress = StreamProgress(None)
    made = draft(asked, out, progress.say)
    for guess in made.guesses:
        progress.say(f"guess: {guess}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(made.text, "utf-8")
    click.echo(f"{out} is written; next: compress run {out} --device {with_address(device)}")
    if with_address(device) != device:
        click.echo("ADDRESS is ssh://USER@BOARD, or adb://SERIAL of a phone")
    return 0


def _name(model: str, data: str) -> str:
    """Make a name for the recipe of the model's, or else of the data's."""
    given = model.rpartition(":")[2] if ":" in model else Path(model).stem
    words = (given or Path(data).name).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-")[:64] or "recipe"
