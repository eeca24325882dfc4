"""This machine as a device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import final

from deploy.devices.base import Device


@final
class Local(Device):
    """Files stay where they are; a worker is a child process."""

    def __init__(self, url: str = "local") -> None:
        self.url = url

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

    def start_worker(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy", "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,
        )
