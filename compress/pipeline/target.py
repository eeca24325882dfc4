"""Resolve ``PROFILE[@URL]`` to a profile and a device."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import click

from compress.execution import distributed
from deploy.devices import Device, device
from deploy.devices.local import Local
from deploy.engines import engine, engines
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
    about, usable = device_facts(there)
    try:
        for words in contradictions(name, about, "this machine" if isinstance(there, Local) else there.url):
            if distributed.is_main():
                click.echo(f"warning: {words}", err=True)
        return with_engines(load(name, about), {n: (a["score"] >= 0, a["reason"]) for n, a in usable.items()}), there
    except UserError:
        there.close()
        raise


def runtime_versions(there: Device) -> dict[str, str]:
    """The version of each engine's runtime on a device; empty where it is not there."""
    return {name: able["version"] for name, able in device_facts(there)[1].items()}


@functools.cache
def device_facts(there: Device) -> tuple[Facts, dict[str, dict[str, Any]]]:
    """What the device is, and each engine's affinity there."""
    own = {name: asdict(engine(name).affinity()) for name in engines()}
    if isinstance(there, Local):
        return facts(), own
    said = distributed.from_main(_worker_facts(there) if distributed.is_main() else {})
    absent = {"score": -1, "reason": "the device side there does not know it", "version": ""}
    return Facts.from_json(said["device"]), {name: said["engines"].get(name, absent) for name in own}


def _worker_facts(there: Device) -> dict[str, Any]:
    from deploy.worker.client import RemoteWorker

    with RemoteWorker(there) as worker:
        return worker.facts()
