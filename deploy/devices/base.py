"""The interface of a device: put a file there, run a command or a worker there, get a file back."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class DeviceError(RuntimeError):
    """A device that could not be reached, or did not answer in time; names it and the last lines of the connection."""


@dataclass(frozen=True, kw_only=True)
class CompletedCommand:
    """Exit code and output of a command on a device."""

    code: int
    stdout: str
    stderr: str


class Device(ABC):
    """A machine that runs engines. Subclasses are final."""

    url: str

    @abstractmethod
    def put(self, local: Path) -> str:
        """Make the file or folder ``local`` available there; return its path on the device."""

    @abstractmethod
    def get(self, remote: str, local: Path) -> None:
        """Copy the file or folder ``remote`` to ``local``."""

    @abstractmethod
    def path(self, local: Path) -> str:
        """Return the path there for a file that the device itself makes, for ``local`` here."""

    @abstractmethod
    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        """Run a command there to its end, without a shell between; its exit code is the caller's to judge.

        Raises:
            DeviceError: the device cannot be reached, the connection broke, or ``timeout_s`` is over; nothing is left
                running.
        """

    @abstractmethod
    def deploy_command(self) -> list[str]:
        """Return the first words of a device-side command, ``[python, "-m", "deploy"]``; install it if need be."""

    @abstractmethod
    def start_worker(self) -> subprocess.Popen[str]:
        """Start ``python -m deploy worker`` there, its standard streams piped as text."""

    @abstractmethod
    def forget(self, remote: str) -> None:
        """Release ``remote``, a path that ``put`` or ``path`` returned; nothing where files stay the user's."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Describe our files there, as plain data; empty where nothing is kept."""

    @abstractmethod
    def clean(self) -> None:
        """Remove all of our files from the device.

        Raises:
            DeviceError: a run is using it.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device; nothing where none was taken."""
