"""Options that several commands share."""

from __future__ import annotations

import shutil

import click

from compress.execution import distributed
from compress.pipeline.target import ResolvedTarget, resolve
from deploy.devices import DEVICES, device
from deploy.shipping.ship import Destination
from profiles.device import load
from profiles.errors import UserError

LEAST_WIDTH, UNKNOWN_WIDTH = 130, 150


def terminal_width() -> int:
    """Return the columns that a table may take: the terminal's, and enough for its names where that is narrow or none."""
    return max(shutil.get_terminal_size((UNKNOWN_WIDTH, 24)).columns, LEAST_WIDTH)


def target(given: str) -> ResolvedTarget:
    """Find the profile and the device of ``PROFILE[@URL]``; warnings go to standard error.

    Raises:
        UserError: as ``compress.pipeline.target.resolve``.
    """
    resolved = resolve(given)
    for warning in resolved.warnings if distributed.is_main() else ():
        click.echo(f"warning: {warning}", err=True)
    return resolved


def destinations(given: str) -> list[Destination]:
    """Find the devices of ``[PROFILE@]URL[,...]``; a profile alone is that of this machine.

    Raises:
        UserError: no such device or profile, or one is named twice; all at once.
    """
    devices: list[Destination] = []
    faults: list[str] = []
    for text in given.split(","):
        try:
            devices.append(_destination(text.strip()))
        except UserError as error:
            faults += error.faults
    urls = [there.device.url for there in devices]
    faults += [f"--device: {url} is named twice" for url in sorted({url for url in urls if urls.count(url) > 1})]
    if faults:
        raise UserError(*faults)
    return devices


def _destination(text: str) -> Destination:
    before, at, after = text.partition("@")
    is_url = "://" in before or before in DEVICES
    profile, url = (None, text) if is_url else (before, after if at else "local")
    return Destination(device=device(url), profile=None if profile is None else load(profile).name)
