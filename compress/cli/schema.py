"""compress schema."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("of", type=click.Choice(["recipe", "profile"]), default="recipe")
def schema(of: str) -> int:
    """Print the JSON Schema of a recipe or a device profile, for editors that complete and check TOML.

    Save it, and begin a file with: #:schema ./recipe.schema.json
    """
    if of == "profile":
        from profiles.schema import profile_schema

        found = profile_schema()
    else:
        from compress.recipe.schema import recipe_schema

        found = recipe_schema()
    click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    return 0
