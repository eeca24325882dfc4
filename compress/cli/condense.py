"""compress condense: a small set of a recipe's data, with its teacher's soft labels, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from compress.methods.condensation import SETS


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, .npz.")
@click.option("--use", type=click.Choice([name for name in SETS if name != "file"]), help="What it is made of. [random]")
@click.option("--per-class", type=click.IntRange(1), help="Stored images of each class.")
@click.option("--samples", type=click.IntRange(1), help="Stored samples of all classes together.")
@click.option("--size-mib", type=click.FloatRange(0, min_open=True), help="MiB of the file, soft labels too.")
@click.option(
    "--labels", type=click.Choice(["auto", "full", "quantised", "two", "none"]), help="Form of the soft labels. [auto]"
)
def condense(
    recipe: str,
    out: Path,
    use: str | None,
    per_class: int | None,
    samples: int | None,
    size_mib: float | None,
    labels: str | None,
) -> int:
    """Make a small set of RECIPE's data that stands for its training split, and write it to one file.

    The file holds images, the teacher's soft labels and the digest of the teacher they belong to; a recipe takes it by
    [recovery] set = { use = "file", path = "small.npz" }. Without options the set is the one of RECIPE's own [recovery].
    """
    from compress.execution.progress import StreamProgress
    from compress.pipeline.condensing import condense as make
    from compress.recipe.parse import load

    given = {"use": use, "per_class": per_class, "samples": samples, "size_mib": size_mib, "labels": labels}
    told = make(load(recipe), {key: value for key, value in given.items() if value is not None}, out, StreamProgress(None))
    click.echo(told)
    return 0
