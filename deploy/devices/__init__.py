"""Devices: where a command runs. Everything that can run on a device can run on ``local``.

To add one: a file here with a final subclass of ``Device``, and a line in ``DEVICES`` for its URL scheme.
"""

from __future__ import annotations

from deploy.devices.base import CompletedCommand, Device, DeviceError
from profiles.errors import UserError, unknown
from profiles.tables import load_object, with_entry_points

DEVICES: dict[str, str] = {
    "local": "deploy.devices.local:Local",
    "ssh": "deploy.devices.ssh:SSH",
    "adb": "deploy.devices.adb:ADB",
}


def device(url: str) -> Device:
    """Return the device at ``url``; ``local`` is this machine.

    Raises:
        UserError: no device speaks that URL's scheme.
    """
    scheme = url.partition("://")[0]
    table = with_entry_points(DEVICES, "edge_compress.devices")
    if scheme not in table:
        raise UserError(unknown("kind of device", scheme, table))
    opened: Device = load_object(table[scheme])(url)
    return opened


__all__ = ["DEVICES", "CompletedCommand", "Device", "DeviceError", "device"]
