"""This machine as a device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, final

from deploy.devices.base import CompletedCommand, Device, DeviceError
from deploy.files.confined import python_environment


@final
class Local(Device):
    """This machine: files stay where they are; a worker is a child process.

    ``local:///DIR`` is this machine with the bundles that it serves in DIR, as if it were a device of its own.
    """

    def __init__(self, url: str = "local") -> None:
        self.url = url
        self._home = url.partition("://")[2]

    def put(self, local: Path) -> str:
        return str(local.resolve())

    def get(self, remote: str, local: Path) -> None:
        source = Path(remote).resolve()
        if source == local.resolve():
            return
        if source.is_dir():
            shutil.copytree(source, local, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, local)

    def path(self, local: Path) -> str:
        return str(local.resolve())

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        stdin_arguments: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        try:
            process = subprocess.run(
                list(arguments),
                capture_output=True,
                timeout=timeout_s,
                env=self._environment(),
                check=False,
                **stdin_arguments,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.url}: '{arguments[0]}' did not end within {timeout_s:g} s; it was stopped") from None
        except OSError as error:
            raise DeviceError(f"{self.url}: '{arguments[0]}' cannot be run: {error.strerror}") from None
        return CompletedCommand(
            code=process.returncode,
            stdout=process.stdout.decode(errors="replace"),
            stderr=process.stderr.decode(errors="replace"),
        )

    def forget(self, remote: str) -> None:
        """Do nothing: files here are the user's."""

    def status(self) -> dict[str, Any]:
        """Return nothing: no files are kept for a device here."""
        return {}

    def clean(self) -> None:
        """Do nothing: no files are kept for a device here."""

    def close(self) -> None:
        """Do nothing: this machine is not locked."""

    def deploy_command(self) -> list[str]:
        return [sys.executable, "-m", "deploy"]

    def start_worker(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.deploy_command(), "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment(),
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        return python_environment() | ({"EDGE_HOME": self._home} if self._home else {})
