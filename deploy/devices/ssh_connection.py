"""One connection that all commands over SSH share (OpenSSH's ControlMaster); it ends with this process."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import IO, final

from deploy.board.address import Address
from deploy.board.link import LinkError
from profiles.errors import UserError

CONNECT_S = 15
ALIVE_S, ALIVE_COUNT = 15, 4
PERSIST_S = 60


@final
class SharedConnection:
    """The connection to one address. Not safe for several threads at once.

    Attributes:
        folder: of its socket; None while there is none. A locked file in it says that this process lives.
        owner: name of this connection, by which the board knows who locked it.
        alive: that file.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self.folder: Path | None = None
        self.owner = ""
        self.alive: IO[str] | None = None

    def command(self, words: str) -> list[str]:
        """Return the local command that runs shell words at the address, connected first.

        Raises:
            LinkError: ssh cannot connect; its last words.
            UserError: there is no ssh here.
        """
        return [*self._ssh(self._connected()), "--", self._address.host, words]

    def close(self) -> None:
        """End the connection, and remove what it left here."""
        if self.folder is None:
            return
        folder, self.folder = self.folder, None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [*self._ssh(folder), "-O", "exit", "--", self._address.host]
            subprocess.run(command, capture_output=True, timeout=10, check=False)
        shutil.rmtree(folder, ignore_errors=True)

    def _ssh(self, folder: Path) -> list[str]:
        config, address = os.environ.get("EDGE_SSH_CONFIG"), self._address
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": ALIVE_S,
            "ServerAliveCountMax": ALIVE_COUNT,
            "ControlMaster": "no",
            "ControlPath": folder / "c",
            "ControlPersist": PERSIST_S,
            "RequestTTY": "no",
            "RemoteCommand": "none",
        }
        return [
            "ssh",
            *(["-F", config] if config else []),
            *(f"-o{name}={value}" for name, value in options.items()),
            *(["-p", str(address.port)] if address.port else []),
            *(["-l", address.user] if address.user else []),
        ]

    def _connected(self) -> Path:
        """Return the folder of the connection, made when there is none; a broken one is replaced."""
        if sys.platform == "win32":
            raise UserError("no connection to a board from Windows: its OpenSSH shares none (ControlMaster); use WSL")
        if self.folder is None:
            # A socket's path has room for a hundred bytes; a temporary folder of the user's may be longer.
            self.folder = Path(tempfile.mkdtemp(prefix="edge-compress-", dir="/tmp"))
            self.owner = f"{platform.node()} {self.folder} {uuid.uuid4().hex[:8]}"
            self.alive = (self.folder / "alive").open("w")
            _lock(self.alive)
        if not (self.folder / "c").exists():
            self._start_master(self.folder)
        return self.folder

    def _start_master(self, folder: Path) -> None:
        options = ["-oControlMaster=yes", "-f", "-N", "--", self._address.host]
        command = [word for word in self._ssh(folder) if word != "-oControlMaster=no"] + options
        with (folder / "words").open("w+b") as words:
            try:
                process = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, timeout=4 * CONNECT_S, check=False
                )
            except subprocess.TimeoutExpired:
                raise LinkError(f"Connection timed out after {4 * CONNECT_S} s") from None
            except FileNotFoundError:
                raise UserError("no ssh on this machine; install OpenSSH's client") from None
            words.seek(0)
            output = words.read().decode(errors="replace").strip()
        if process.returncode:
            raise LinkError(output or f"ssh exited with {process.returncode}")


def _lock(file: IO[str]) -> None:
    """Lock an open file until it is closed.

    Raises:
        OSError: another process has it.
    """
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_dead_here(owner: str) -> bool:
    """Return whether ``owner`` is an ended process of this machine: its folder is left, and its file is not locked."""
    parts = owner.split(" ")
    if len(parts) != 3 or parts[0] != platform.node():
        return False
    try:
        with (Path(parts[1]) / "alive").open("r+") as file:
            _lock(file)
    except OSError:
        return False
    shutil.rmtree(parts[1], ignore_errors=True)
    return True
