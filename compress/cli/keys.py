"""compress keys and compress sign."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click


@click.group()
def keys() -> None:
    """Make, list and hand out the keys that sign bundles."""


@keys.command()
@click.argument("name", default="default")
def new(name: str) -> int:
    """Make a key; bundles are signed with the one named 'default', or with the only one."""
    from compress.pipeline.signing_keys import folder
    from compress.pipeline.signing_keys import new as make

    made = make(name)
    click.echo(f"{made.name} {made.id}, in {folder()}: keep {made.name}.key secret and in a safe copy", err=True)
    return 0


@keys.command("list")
def list_() -> int:
    """List the keys on this machine: name and id."""
    from compress.pipeline.signing_keys import all_keys, folder

    for key in all_keys():
        click.echo(f"{key.name:<20} {key.id}")
    if not all_keys():
        click.echo(f"no key in {folder()}; `compress keys new` makes one", err=True)
    return 0


@keys.command()
@click.argument("name", default="default")
def export(name: str) -> int:
    """Print the public half of a key, as devices keep it in their 'trusted' folder."""
    from compress.pipeline.signing_keys import find

    click.echo(find(name).pem, nl=False)
    return 0


@keys.command()
@click.argument("name", default="default")
@click.option("--device", "-d", required=True, metavar="[PROFILE@]URL[,...]", help="Who is to trust it.")
@click.option("--root", help="The store's folder there.  [$EDGE_HOME there, or ~/.edge-compress]")
def trust(name: str, device: str, root: str | None) -> int:
    """Have devices trust a key, beside those that they trust already."""
    from compress.cli.options import destinations
    from compress.pipeline.signing_keys import find
    from deploy.shipping import ship

    key = find(name)
    for there in destinations(device):
        click.echo(f"{there.device.url}: trusts {ship.trust(there, key.pem, ship.ShipOptions(root=root))}")
    return 0


@keys.command()
@click.argument("key_id")
@click.option("--device", "-d", required=True, metavar="[PROFILE@]URL[,...]", help="Who is to trust it no longer.")
@click.option("--root", help="The store's folder there.  [$EDGE_HOME there, or ~/.edge-compress]")
def distrust(key_id: str, device: str, root: str | None) -> int:
    """Have devices trust a key no longer; what is served goes on, what it signed is not installed again."""
    from compress.cli.options import destinations
    from deploy.shipping import ship

    for there in destinations(device):
        left = ship.distrust(there, key_id, ship.ShipOptions(root=root))
        click.echo(f"{there.device.url}: still trusts {', '.join(left) or 'none'}")
    return 0


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", help="The key's name.  [$EDGE_KEY, 'default', or the only one]")
@click.option("--expires", type=click.IntRange(1), metavar="DAYS", help="Devices refuse to install it after so many days.")
@click.option("--version", type=click.IntRange(1), help="Its version; a device takes no older one.  [kept]")
def sign(bundle: Path, key: str | None, expires: int | None, version: int | None) -> int:
    """Sign a bundle."""
    from contextlib import nullcontext

    from compress.execution.locks import only_writer
    from compress.pipeline.signing_keys import default, find, folder, signer
    from deploy.bundle import bundle as bundles
    from profiles.errors import UserError

    chosen = find(key) if key else default()
    if chosen is None:
        raise UserError(f"{folder()}: no key to sign with; make one with `compress keys new`")
    expires_in = timedelta(days=expires) if expires else None
    with only_writer(bundle.parent) if bundle.is_dir() else nullcontext():
        made = bundles.sign(bundle, signer(chosen), version=version, expires_in=expires_in)
    until = f", expires {made.expires}" if made.expires else ""
    click.echo(f"{bundle}: {made.name} {made.version}, signed by {chosen.name} ({made.key}){until}", err=True)
    return 0
