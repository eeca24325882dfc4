"""Options that several commands share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deploy.devices import Device, device
from deploy.engines import engine, engines
from profiles.device import DeviceProfile, load, with_engines


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
