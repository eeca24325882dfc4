"""Options that several commands share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deploy.devices import DEVICES, Device, device
from deploy.engines import engine, engines
from deploy.ship import Destination
from profiles.device import DeviceProfile, load, names, with_engines
from profiles.errors import UserError, unknown


def target(given: str) -> tuple[DeviceProfile, Device]:
    """The profile and the device of ``PROFILE[@URL]``, less the runtimes that are not there.

    Raises:
        UserError: no such profile or device, or no runtime of it can run.
    """
    name, _, url = given.partition("@")
    profile = load(name)
    there = device(url or "local")
    usable = {name: engine(name).affinity() for name in engines()}
    return with_engines(profile, {name: (a.score >= 0, a.reason) for name, a in usable.items()}), there


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
    if profile is not None and profile not in names():
        raise UserError(unknown("device", profile, names()))
    return Destination(device=device(url), profile=profile)
