"""compress teachers: which of a recipe's teachers fits the data, before anything is trained."""

from __future__ import annotations

import json

import click


@click.group()
def teachers() -> None:
    """Choose among teachers."""


@teachers.command()
@click.argument("recipe")
@click.option("--samples", default=1000, show_default=True, help="Labelled training samples to look at.")
@click.option("--power", default=1.0, show_default=True, help="Of the similarity, in the shares.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def rank(recipe: str, samples: int, power: float, as_json: bool) -> int:
    """Rank [teacher] and each [[teacher.also]] of RECIPE by how well their features fit the labels.

    The first is the one to distil from (DistillNearest); the shares are what [[teacher.also]] takes (DistillWeighted). Reads
    training samples only.
    """
    from compress.execution.cache import StepCache, steps_folder
    from compress.execution.progress import StreamProgress
    from compress.pipeline import teacher_ranking
    from compress.pipeline.model_builder import ModelBuilder
    from compress.recipe.parse import load
    from profiles.device import load as profile

    progress = StreamProgress(None)
    builder = ModelBuilder(load(recipe), profile("cpu"), StepCache(steps_folder(), progress), progress)
    ranking = teacher_ranking.rank(builder, samples, power)
    if as_json:
        click.echo(json.dumps(ranking, indent=1))
        return 0
    click.echo(f"{'parc':>7} {'cka':>7} {'share':>7}  teacher")
    for row in ranking:
        click.echo(f"{row['parc']:7.3f} {row['cka']:7.3f} {row['share']:7.3f}  {row['teacher']}")
    return 0
