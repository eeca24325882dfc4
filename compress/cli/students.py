"""compress students."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("recipe")
@click.option("--device", "-d", default="cpu", show_default=True, metavar="PROFILE[@URL]", help="What to compress for.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that was tried as JSON.")
def students(recipe: str, device: str, as_json: bool) -> int:
    """Search the student of RECIPE's [student.search] without training: scored, and timed on the device.

    `compress run` does the same search, and goes on with what it chose.
    """
    from compress.cli.options import target
    from compress.execution.cache import steps_folder
    from compress.execution.progress import StreamProgress
    from compress.pipeline import run
    from compress.pipeline.student_search import table
    from compress.recipe.parse import load
    from profiles.errors import UserError

    asked = load(recipe)
    if asked.student.search is None:
        raise UserError(f"{recipe} has no [student.search]; name the choices of the factory's arguments there")
    resolved = target(device)
    result = run.students(asked, resolved.profile, resolved.device, steps_folder(), StreamProgress())
    click.echo(json.dumps(result.as_json(), indent=1) if as_json else table(result))
    return 0
