"""compress ship, rollback and status."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deploy.shipping.install import LATENCY_TOLERANCE

FAILED, REFUSED = 1, 2
DEVICES = "[PROFILE@]URL[,...]"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", "-d", required=True, metavar=DEVICES, help="Where to; several apart by commas.")
@click.option("--canary", type=click.IntRange(0), default=1, show_default=True, help="Devices to try first, one by one.")
@click.option("--at-once", type=click.IntRange(1), default=4, show_default=True, help="The others, so many at a time.")
@click.option("--trust", is_flag=True, help="Have the devices trust the signer's key, though they trust others already.")
@click.option("--no-trust", is_flag=True, help="Have no device trust the key, not even one that trusts none yet.")
@click.option(
    "--latency-tolerance",
    type=click.FloatRange(0),
    default=LATENCY_TOLERANCE,
    show_default=True,
    help="Times the report's p50 that a device like the report's may take; 0 asks nothing.",
)
@click.option("--keep", type=click.IntRange(2), default=3, show_default=True, help="Releases to keep on a device.")
@click.option("--root", help="The store's folder there.  [$EDGE_HOME there, or ~/.edge-compress]")
@click.option("--json", "as_json", is_flag=True, help="Print what became of it as JSON.")
def ship(
    bundle: Path,
    device: str,
    canary: int,
    at_once: int,
    trust: bool,
    no_trust: bool,
    latency_tolerance: float,
    keep: int,
    root: str | None,
    as_json: bool,
) -> int:
    """Bring BUNDLE to devices: only what they lack is sent; verified, built and proven there, then switched to.

    Whatever fails leaves the old release serving. After a failure no further device is begun with. A device that
    trusts no key yet trusts the signer's from its first bundle on (--no-trust: it does not).
    """
    from compress.cli.fleet_table import shipped_table
    from compress.cli.options import destinations
    from compress.pipeline.signing_keys import by_id
    from deploy.shipping import ship as shipping
    from profiles.errors import UserError

    if trust and no_trust:
        raise UserError("--trust and --no-trust exclude each other")
    freight = shipping.load(bundle)
    key = by_id(freight.manifest.key) if freight.manifest.key else None
    way = shipping.ShipOptions(
        root=root,
        public_key=key.pem if key else None,
        trust="add" if trust else "never" if no_trust else "first",
        latency_tolerance=latency_tolerance,
        keep=keep,
    )
    done = shipping.ship_fleet(freight, destinations(device), way, canary=canary, at_once=at_once, say=_say)
    click.echo(json.dumps([asdict(one) for one in done], indent=1) if as_json else shipped_table(freight.manifest, done))
    states = {one.state for one in done}
    return FAILED if "failed" in states else REFUSED if "refused" in states else 0


@click.command()
@click.option("--device", "-d", required=True, metavar=DEVICES, help="Where.")
@click.option("--name", help="Of the model, where a device serves several.")
@click.option("--root", help="The store's folder there.  [$EDGE_HOME there, or ~/.edge-compress]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def rollback(device: str, name: str | None, root: str | None, as_json: bool) -> int:
    """Go back one release, once it has proven itself on the device again."""
    from compress.cli.options import destinations
    from deploy.shipping import ship as shipping

    done: list[dict[str, Any]] = []
    for there in destinations(device):
        found = shipping.roll_back(there, name, shipping.ShipOptions(root=root))
        done.append({"device": there.device.url, **found})
        _say(f"{there.device.url}: {found['name']} {found['version']} is served again (was {found['was']})")
    if as_json:
        click.echo(json.dumps(done, indent=1))
    return 0


@click.command()
@click.option("--device", "-d", required=True, metavar=DEVICES, help="Where.")
@click.option("--root", help="The store's folder there.  [$EDGE_HOME there, or ~/.edge-compress]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(device: str, root: str | None, as_json: bool) -> int:
    """Show what devices serve; exit code 1 when one does not answer or serves damaged files."""
    from compress.cli.fleet_table import status_table
    from compress.cli.options import destinations
    from deploy.shipping import ship as shipping

    told = [_status(there, shipping.ShipOptions(root=root)) for there in destinations(device)]
    click.echo(json.dumps(told, indent=1) if as_json else status_table(told))
    damaged = any(model["fault"] for one in told for model in one.get("models", []))
    return FAILED if damaged or any("error" in one for one in told) else 0


def _status(there: Any, way: Any) -> dict[str, Any]:
    from deploy.devices import DeviceError
    from deploy.shipping import ship as shipping

    try:
        return {"device": there.device.url, **shipping.status(there, way)}
    except (DeviceError, shipping.FailedError) as error:
        return {"device": there.device.url, "error": str(error)}


def _say(line: str) -> None:
    click.echo(line, err=True)
