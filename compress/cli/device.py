"""compress device: what of ours is on a board, and its removal."""

from __future__ import annotations

import json
from typing import Any

import click

from deploy.devices import Device


@click.group("device")
def group() -> None:
    """Show what edge-compress keeps on a board, or remove it."""


@group.command()
@click.option("--device", "-d", "given", required=True, metavar="[PROFILE@]URL", help="The board.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(given: str, as_json: bool) -> int:
    """Show sizes, versions, and who is using the board."""
    there = _device(given)
    try:
        state = there.status()
    finally:
        there.close()
    if as_json:
        click.echo(json.dumps(state, indent=1))
    else:
        click.echo("\n".join([there.url, *_lines(state)]))
    return 0


@group.command()
@click.option("--device", "-d", "given", required=True, metavar="[PROFILE@]URL", help="The board.")
def clean(given: str) -> int:
    """Remove everything of edge-compress from the board but the bundles that it serves."""
    there = _device(given)
    try:
        there.clean()
    finally:
        there.close()
    click.echo(f"{there.url}: nothing of ours is left but what it serves", err=True)
    return 0


def _device(given: str) -> Device:
    """Find the device of ``PROFILE@URL`` or of a bare URL."""
    from deploy.devices import device

    before, at, after = given.partition("@")
    return device(given if "://" in before or not at else after)


def _lines(state: dict[str, Any]) -> list[str]:
    if not state:
        return ["  nothing is kept for this device"]
    sizes: dict[str, int] = state["size_bytes"]
    parts = ", ".join(f"{name} {size / 1024:.0f}" for name, size in sizes.items() if size >= 1024)
    return [
        f"  folder   {state['root']}: {sum(sizes.values()) / 1024:.0f} KiB ({parts})",
        f"  free     {state['free_bytes'] / 2**30:.1f} GiB",
        f"  system   {state['system']}",
        f"  python   {state['python']}",
        f"  version  {', '.join(state['code']) or 'none'}",
        f"  in use   {state['lock'] or 'no'}",
        f"  jobs     {', '.join(state['jobs']) or 'none'}",
    ]
