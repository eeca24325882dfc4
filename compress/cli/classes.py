"""compress classes."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--vectors", required=True, type=click.Path(path_type=Path), metavar="NPY", help="A row for each class.")
@click.option("--names", required=True, type=click.Path(path_type=Path), metavar="TXT", help="A name a line.")
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="Where it is proven.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the new bundle goes.  [BUNDLE-classes]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def classes(bundle: Path, vectors: Path, names: Path, device: str, out: Path | None, *, as_json: bool) -> None:
    """Give a BUNDLE whose head is class vectors those of other classes, without training: a new bundle beside it."""
    from compress.execution.progress import StreamProgress
    from compress.pipeline.class_vectors import change_classes

    found = change_classes(bundle, vectors, names, device=device, out=out, progress=StreamProgress())
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else found)
