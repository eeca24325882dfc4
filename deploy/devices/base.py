"""The contract of a device: put a file there, run a command or a worker there, get a file back."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class DeviceError(RuntimeError):
    """A device could not be reached, or did not answer in time; names the device and the last words of the connection."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command on a device ended."""

    code: int
    stdout: str
    stderr: str


class Device(ABC):
    """A machine that runs engines. Subclasses are final."""

    url: str

    @abstractmethod
    def put(self, local: Path) -> str:
        """Make the file or folder ``local`` available there; returns its path on the device."""

    @abstractmethod
    def get(self, remote: str, local: Path) -> None:
        """Bring the file or folder ``remote`` to ``local``."""

    @abstractmethod
    def path(self, local: Path) -> str:
        """Where a file that the device itself makes belongs there, for what is ``local`` here."""

    @abstractmethod
    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a command there to its end, without a shell between; whatever it returns is the caller's to judge.

        Raises:
            DeviceError: the device cannot be reached, the connection broke, or ``timeout_s`` is over; nothing is left
                running.
        """

    @abstractmethod
    def door(self) -> list[str]:
        """The words that begin a command of the device side there: ``[python, "-m", "deploy"]``, installed if need be."""

    @abstractmethod
    def start_worker(self) -> subprocess.Popen[str]:
        """Start ``python -m deploy worker`` there, its standard streams piped as text."""

    @abstractmethod
    def forget(self, remote: str) -> None:
        """``remote``, which ``put`` or ``path`` gave, is not needed any more; nothing where files stay the user's."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """What of ours is there, as plain data; empty where nothing is kept."""

    @abstractmethod
    def clean(self) -> None:
        """Remove everything of ours from the device.

        Raises:
            DeviceError: a run is using it.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the device back; nothing where none was taken."""
