"""The contract of a device: put a file there, start a worker there, get a file back."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from pathlib import Path


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
    def start_worker(self) -> subprocess.Popen[str]:
        """Start ``python -m deploy worker`` there, its standard streams piped as text."""
