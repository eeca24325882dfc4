"""compress stages, engines, losses, tasks: what exists, and whether it can run here."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

import click


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the defaults.")
def stages(name: str | None, as_json: bool) -> int:
    """List the stages and their settings; or those of the stage NAME."""
    from compress.stages import stages as table
    from profiles.errors import UserError, unknown
    from profiles.tables import load_object

    if name is not None and name not in table():
        raise UserError(unknown("stage", name, table()))
    shown = table() if name is None else {name: table()[name]}
    if as_json:
        made = {name: load_object(reference)() for name, reference in shown.items()}
        click.echo(json.dumps({name: stage.fields() for name, stage in made.items()}, indent=1))
        return 0
    for name, reference in shown.items():
        first_line, fields = _stage(reference)
        click.echo(f"{name}: {first_line}")
        for key, value in fields.items():
            click.echo(f"    {key} = {_shown(value)}")
    return 0


def _stage(reference: str) -> tuple[str, dict[str, Any]]:
    """Read first line and settings of a stage from its source, so that PyTorch need not be imported."""
    from compress.cli.static import UnreadableError, definition_of
    from profiles.tables import load_object

    try:
        stage = definition_of(reference)
        return stage.first_line, stage.fields()
    except UnreadableError:
        made = load_object(reference)()
        return _first_line(type(made)), made.fields()


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
        click.echo(f"{name:<20} {state}")
        if able.score < 0 and (words := remedy(name, here)):
            click.echo(f"{'':<20} to get it: {words}")
    return 0


@click.command()
def losses() -> int:
    """List the losses of a recipe by family: what each reads, its options, its paper; and the weights of losses."""
    from compress.cli.static import source_module
    from compress.losses import LOSSES
    from profiles.tables import with_entry_points

    family = None
    for name, reference in with_entry_points(LOSSES, "edge_compress.losses").items():
        loss = _signature(reference)
        if loss.family != family:
            family = loss.family
            click.echo(family)
        click.echo(f"    {name:<14} {loss.first_line}")
        click.echo(f"    {'':<14}   reads {', '.join(loss.reads)}{'; ' if loss.options else ''}{loss.options}")
    click.echo("Weights of losses: a number, or a table with use.")
    weights = source_module("compress.methods.distillation.loss_weights").constant("WEIGHTS")
    for name, reference in with_entry_points(weights, "edge_compress.weights").items():
        weight = _signature(reference)
        click.echo(f"    {name:<14} {weight.first_line}")
        click.echo(f"    {'':<14}   {weight.options}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A loss or a weight of losses, as it is listed; ``family`` is the first line of its module."""

    family: str
    first_line: str
    reads: tuple[str, ...]
    options: str


def _signature(reference: str) -> Signature:
    """Read a loss from its source, so that PyTorch need not be imported; import it where that does not say."""
    from compress.cli.static import UnreadableError, definition_of
    from profiles.tables import load_object

    try:
        found = definition_of(reference)
        options = ", ".join(f"{name} = {_shown(value)}" for name, value in found.options().items())
        reads = tuple(found.reads())
        return Signature(family=found.module.first_line, first_line=found.first_line, reads=reads, options=options)
    except UnreadableError:
        return _imported_signature(load_object(reference))


def _imported_signature(loss: Any) -> Signature:
    from compress.methods.distillation.loss_specs import loss_inputs

    family = _first_line(inspect.getmodule(type(loss) if not hasattr(loss, "__module__") else loss))
    return Signature(family=family, first_line=_first_line(loss), reads=tuple(loss_inputs(loss)), options=_defaults(loss))


def _defaults(thing: Any) -> str:
    options = [p for p in inspect.signature(thing).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return ", ".join(f"{p.name} = {_shown(p.default)}" for p in options)


@click.command()
def tasks() -> int:
    """List the tasks, the data sources with their options, and the outputs of detectors that are read."""
    from compress.recipe.parse import sources
    from compress.recipe.parse import tasks as table
    from deploy.processing.detection.choose import readers
    from profiles.tables import load_object

    for heading, found in (("tasks", table()), ("data", sources()), ("heads of detection", readers())):
        click.echo(heading)
        for name, reference in found.items():
            listed = load_object(reference)
            click.echo(f"    {name:<16} {_first_line(listed)}")
            if heading == "data":
                click.echo(f"    {'':<16}   {_options(listed)}")
    return 0


def _options(source: Any) -> str:
    """List the options of a data source with their defaults; those without one must be given."""
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
