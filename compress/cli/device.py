"""compress device: what of ours is on a board, and its removal."""

from __future__ import annotations

import json
from typing import Any

import click

from deploy.devices import Device


@click.group("device")
def group() -> None:
    """What of ours is on a board, or remove it."""


@group.command()
@click.option("--device", "-d", "given", required=True, metavar="[PROFILE@]URL", help="The board.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(given: str, as_json: bool) -> int:
    """Sizes, versions, and who is using the board."""
    there = _device(given)
    try:
        found = there.status()
    finally:
        there.close()
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("\n".join([there.url, *_lines(found)]))
    return 0


@group.command()
@click.option("--device", "-d", "given", required=True, metavar="[PROFILE@]URL", help="The board.")
def clean(given: str) -> int:
    """Remove everything of ours from the board but the bundles that it serves."""
    there = _device(given)
    try:
        there.clean()
    finally:
        there.close()
    click.echo(f"{there.url}: nothing of ours is left but what it serves", err=True)
    return 0


def _device(given: str) -> Device:
    """The device of ``PROFILE@URL`` or of a bare URL."""
    from deploy.devices import device

    before, at, after = given.partition("@")
    return device(given if "://" in before or not at else after)


def _lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return ["  nothing is kept for this device"]
    sizes: dict[str, int] = found["size_bytes"]
    parts = ", ".join(f"{name} {size / 1024:.0f}" for name, size in sizes.items() if size >= 1024)
    return [
        f"  folder   {found['root']}: {sum(sizes.values()) / 1024:.0f} KiB ({parts})",
        f"  free     {found['free_bytes'] / 2**30:.1f} GiB",
        f"  system   {found['system']}",
        f"  python   {found['python']}",
        f"  version  {', '.join(found['code']) or 'none'}",
        f"  in use   {found['lock'] or 'no'}",
        f"  jobs     {', '.join(found['jobs']) or 'none'}",
    ]
