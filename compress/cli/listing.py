"""compress stages, engines, losses, tasks: what exists, and whether it can run here."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the defaults.")
def stages(as_json: bool) -> int:
    """List the stages and their settings."""
    from compress.stages import stages as table
    from profiles.tables import load_object

    found = {name: load_object(reference)() for name, reference in table().items()}
    if as_json:
        click.echo(json.dumps({name: stage.fields() for name, stage in found.items()}, indent=1))
        return 0
    for name, stage in found.items():
        click.echo(f"{name}: {_first_line(type(stage))}")
        for key, value in stage.fields().items():
            click.echo(f"    {key} = {_shown(value)}")
    return 0


@click.command()
def engines() -> int:
    """List the engines, and whether each can run here."""
    from deploy.engines import engine
    from deploy.engines import engines as table
    from profiles.device import facts
    from profiles.remedies import remedy

    here = facts()
    for name in table():
        able = engine(name).affinity()
        state = f"{able.version}, {', '.join(engine(name).precisions)}" if able.score >= 0 else f"cannot run: {able.reason}"
        click.echo(f"{name:<14} {state}")
        if able.score < 0 and (words := remedy(name, here)):
            click.echo(f"{'':<14} to get it: {words}")
    return 0


@click.command()
def losses() -> int:
    """List the losses of a recipe by family: what each reads, its options, its paper; and the weights of losses."""
    from compress.methods.distillation.loss_specs import losses as table
    from compress.methods.distillation.loss_specs import reads_of, weights
    from profiles.tables import load_object

    family = None
    for name, reference in table().items():
        loss = load_object(reference)
        if loss.__module__ != family:
            family = loss.__module__
            click.echo(_first_line(inspect.getmodule(loss)))
        click.echo(f"    {name:<14} {_first_line(loss)}")
        settings = _defaults(loss)
        click.echo(f"    {'':<14}   reads {', '.join(reads_of(loss))}{'; ' if settings else ''}{settings}")
    click.echo("Weights of losses: a number, or a table with use.")
    for name, reference in weights().items():
        kind = load_object(reference)
        click.echo(f"    {name:<14} {_first_line(kind)}")
        click.echo(f"    {'':<14}   {_defaults(kind)}")
    return 0


def _defaults(thing: Any) -> str:
    options = [p for p in inspect.signature(thing).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return ", ".join(f"{p.name} = {_shown(p.default)}" for p in options)


@click.command()
def tasks() -> int:
    """List the tasks and the data sources with their options."""
    from compress.recipe.parse import sources
    from compress.recipe.parse import tasks as table
    from profiles.tables import load_object

    for heading, found in (("tasks", table()), ("data", sources())):
        click.echo(heading)
        for name, reference in found.items():
            listed = load_object(reference)
            click.echo(f"    {name:<16} {_first_line(listed)}")
            if heading == "data":
                click.echo(f"    {'':<16}   {_options(listed)}")
    return 0


def _options(source: Any) -> str:
    """The options of a data source with their defaults; those without one must be given."""
    options = inspect.signature(source).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"{p.name} = {_shown(p.default)}" for p in options)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(v) for v in value) + "]"
    if isinstance(value, dict) and "use" in value:
        options = {"weight": value["weight"], **value["options"]}
        return f"{{use = {value['use']!r}, {', '.join(f'{k} = {v}' for k, v in options.items())}}}"
    return json.dumps(value)
