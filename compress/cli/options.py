"""Options that several commands share."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import click

from compress import processes
from deploy.devices import DEVICES, Device, device
from deploy.devices.local import Local
from deploy.engines import engine, engines
from deploy.ship import Destination
from profiles.device import DeviceProfile, Facts, contradictions, facts, load, with_engines
from profiles.errors import UserError


def target(given: str) -> tuple[DeviceProfile, Device]:
    """The profile and the device of ``PROFILE[@URL]``, less the runtimes that are not there.

    PROFILE is a name, or the path of a profile of the user's own. Where the device is not as its profile states, that is
    told, and the device's own word counts.

    Raises:
        UserError: no such profile or device, the device has another architecture, or no runtime of the profile can run.
        DeviceError: the device cannot be reached.
    """
    name, _, url = given.partition("@")
    load(name)
    there = device(url or "local")
    about, usable = asked(there)
    try:
        for words in contradictions(name, about, "this machine" if isinstance(there, Local) else there.url):
            if processes.is_main():
                click.echo(f"warning: {words}", err=True)
        return with_engines(load(name, about), {n: (a["score"] >= 0, a["reason"]) for n, a in usable.items()}), there
    except UserError:
        there.close()
        raise


def runtime_versions(there: Device) -> dict[str, str]:
    """The version of each engine's runtime on a device; empty where it is not there."""
    return {name: able["version"] for name, able in asked(there)[1].items()}


@functools.cache
def asked(there: Device) -> tuple[Facts, dict[str, dict[str, Any]]]:
    """What the device is, and each engine's affinity there."""
    own = {name: asdict(engine(name).affinity()) for name in engines()}
    if isinstance(there, Local):
        return facts(), own
    said = processes.from_main(_worker_facts(there) if processes.is_main() else {})
    absent = {"score": -1, "reason": "the device side there does not know it", "version": ""}
    return Facts.from_json(said["device"]), {name: said["engines"].get(name, absent) for name in own}


def _worker_facts(there: Device) -> dict[str, Any]:
    from deploy.remote import RemoteWorker

    with RemoteWorker(there) as worker:
        return worker.facts()


def plain(record: Any) -> dict[str, Any]:
    """A dataclass as plain data."""
    return asdict(record)


def destinations(given: str) -> list[Destination]:
    """The devices of ``[PROFILE@]URL[,...]``; a profile alone is that of this machine.

    Raises:
        UserError: no such device or profile, or one is named twice; all at once.
    """
    found: list[Destination] = []
    faults: list[str] = []
    for text in given.split(","):
        try:
            found.append(_destination(text.strip()))
        except UserError as error:
            faults += error.faults
    urls = [there.device.url for there in found]
    faults += [f"--device: {url} is named twice" for url in sorted({url for url in urls if urls.count(url) > 1})]
    if faults:
        raise UserError(*faults)
    return found


def _destination(text: str) -> Destination:
    before, at, after = text.partition("@")
    is_url = "://" in before or before in DEVICES
    profile, url = (None, text) if is_url else (before, after if at else "local")
    return Destination(device=device(url), profile=None if profile is None else load(profile).name)
