"""An Android device: ``adb://serial[?python=PATH][&root=FOLDER]``, by the ``adb`` binary. Thin, and unproven on a phone.

Files and commands need nothing there; a worker needs a Python with numpy and a runtime (Termux has one). A worker ends
with its connection: there is no supervisor as on a board over SSH.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import urllib.parse
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, final

from deploy.board import install, root
from deploy.board.address import clean_root
from deploy.devices import commands
from deploy.devices.base import CompletedCommand, Device, DeviceError
from deploy.files import UnsafeNameError, safe_path, sha256
from profiles.errors import UserError

ROOT = "/data/local/tmp/edge-compress/device"
PYTHON = "/data/data/com.termux/files/usr/bin/python3"
FILE_S, SHELL_S, SPARE_S = 3600.0, 60.0, 30.0
OUT_OF_TIME = 124
"""Exit code of toybox's and coreutils' ``timeout``."""


@final
class ADB(Device):
    """A phone on a cable, or in the network after ``adb connect``."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query))
        unknown = sorted(set(query) - {"python", "root"})
        if not parts.netloc or parts.netloc.startswith("-") or unknown:
            raise UserError(f"device {url!r}: write adb://serial[?python=/path/to/python]; 'adb devices' lists serials")
        self._serial, self.url = parts.netloc, f"adb://{parts.netloc}"
        folder = clean_root(query.get("root", ROOT))
        if folder is None or not folder.startswith("/"):
            raise UserError(f"device {url!r}: its root is no absolute path without '..'; write adb://serial?root=/FOLDER")
        self._root, self._python = folder, query.get("python", PYTHON)
        self._code, self._is_ours = "", False

    def put(self, local: Path) -> str:
        files = {local.name: local} if local.is_file() else {str(p.relative_to(local)): p for p in _files(local)}
        digests = {name: sha256(path) for name, path in files.items()}
        self._claim()
        folder = f"{self._root}/put/{install.tree_digest(digests)}"
        if self._shell(f"test -e {shlex.quote(folder)}").code:
            part = f"{self._root}/part-{uuid.uuid4().hex}"
            for name, path in files.items():
                target = f"{part}/{name}"
                self._must(f"mkdir -p {shlex.quote(os.path.dirname(target))}")
                self._adb(["push", str(path), target])
                if self._digest(target) != digests[name]:
                    self._shell(f"rm -rf {shlex.quote(part)}")
                    raise DeviceError(f"{self.url}: {path.name} was altered on its way; it was removed")
            self._must(f"mkdir -p {shlex.quote(self._root)}/put && sync && mv {shlex.quote(part)} {shlex.quote(folder)}")
        return f"{folder}/{local.name}" if local.is_file() else folder

    def get(self, remote: str, local: Path) -> None:
        there = shlex.quote(remote)
        listing = self._must(f"if [ -d {there} ]; then cd {there} && find . -type f; else ls {there} >/dev/null && echo; fi")
        for name in listing.stdout.splitlines():
            try:
                source, target = (f"{remote}/{name[2:]}", safe_path(local, name[2:])) if name else (remote, local)
            except UnsafeNameError as error:
                raise DeviceError(f"{self.url}: {error}") from None
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            self._adb(["pull", source, str(part)])
            if sha256(part) != self._digest(source):
                part.unlink()
                raise DeviceError(f"{self.url}: {source} was altered on its way; it was removed")
            part.replace(target)

    def path(self, local: Path) -> str:
        self._claim()
        folder = f"{self._root}/made/{uuid.uuid4().hex}"
        self._must(f"mkdir -p {shlex.quote(folder)}")
        return f"{folder}/{local.name}"

    def forget(self, remote: str) -> None:
        name = remote.removeprefix(f"{self._root}/made/").split("/")[0]
        if remote.startswith(f"{self._root}/made/") and name not in ("", ".", ".."):
            self._must(f"{self._claim_script()}rm -rf -- {shlex.quote(f'made/{name}')}")

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        # The device stops it as well: it would go on when only this end did.
        words = shlex.join(["timeout", "-k", "2", f"{timeout_s:g}", *arguments])
        result = self._shell(words, stdin, timeout_s + SPARE_S)
        if result.code == OUT_OF_TIME:
            raise DeviceError(f"{self.url}: '{arguments[0]}' did not end within {timeout_s:g} s; it was stopped")
        return result

    def deploy_command(self) -> list[str]:
        if not self._code:
            self._code = self._install()
        return ["env", f"PYTHONPATH={self._code}", "ORT_DISABLE_TELEMETRY=1", self._python, "-m", "deploy"]

    def start_worker(self) -> subprocess.Popen[str]:
        words = shlex.join([*self.deploy_command(), "worker"])
        return subprocess.Popen(
            [*self._command(), "shell", "-T", words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def status(self) -> dict[str, Any]:
        """Describe the root; sizes in bytes, from the kilobytes of ``du``. A phone has no lock."""
        output = self._shell(f"du -sk {shlex.quote(self._root)}/* 2>/dev/null").stdout
        sizes = {line.split()[1].rpartition("/")[2]: int(line.split()[0]) * 1024 for line in output.splitlines()}
        free = self._must("df -k /data/local/tmp 2>/dev/null || df -k /").stdout.splitlines()[-1].split()[-3]
        about = {"root": self._root, "size_bytes": sizes, "free_bytes": int(free) * 1024, "python": self._python}
        return {**about, "system": self._must("uname -srm").stdout.strip(), "code": [], "lock": None, "jobs": []}

    def clean(self) -> None:
        there = shlex.quote(self._root)
        if self._must(f"test -e {there} || test -L {there} || echo none").stdout.strip() == "none":
            return
        self._claim(root.remove_script())

    def close(self) -> None:
        """Do nothing: adb's server is the user's."""

    def _claim_script(self) -> str:
        return f"root={shlex.quote(self._root)}\n{root.claim_script()}"

    def _claim(self, then: str = "") -> None:
        """Make the root ours, where it is new or empty, and run the shell lines ``then`` in it."""
        if self._is_ours and not then:
            return
        reason = root.foreign_reason(self._must(self._claim_script() + then).stdout)
        if reason is not None:
            raise UserError(f"{self.url}: {root.remedy(self._root, reason)}")
        self._is_ours = not then

    def _install(self) -> str:
        self._claim()
        name, archive = install.payload()
        code = f"{self._root}/code/{name}"
        if self._shell(f"test -e {shlex.quote(code)}").code:
            part = shlex.quote(f"{code}.part")
            unpack = f"rm -rf {part} && mkdir -p {part} && tar -xf - -C {part} && mv {part} {shlex.quote(code)}"
            result = self._shell(unpack, archive, FILE_S)
            if result.code:
                raise DeviceError(f"{self.url}: the device side could not be installed: {_last_line(result.stderr)}")
        version = self._shell(shlex.join([self._python, "-c", "import sys, numpy; print(sys.version_info >= (3, 10))"]))
        if version.stdout.strip() != "True":
            raise UserError(
                f"{self.url}: wrong Python: {self._python} there is missing, older than 3.10, or without numpy "
                f"({_last_line(version.stderr) or 'it said nothing'}); install one (Termux: pkg install python-numpy) and "
                f"name it: {self.url}?python=/path/to/python"
            )
        return code

    def _digest(self, remote: str) -> str:
        return (self._must(f"sha256sum {shlex.quote(remote)}").stdout.split() or [""])[0]

    def _must(self, script: str) -> CompletedCommand:
        result = self._shell(script)
        if result.code:
            raise DeviceError(f"{self.url}: {_last_line(result.stderr or result.stdout) or f'exit {result.code}'}")
        return result

    def _shell(self, script: str, stdin: IO[bytes] | bytes = b"", timeout_s: float = SHELL_S) -> CompletedCommand:
        return self._call(["shell", "-T", script], stdin, timeout_s)

    def _adb(self, words: Sequence[str]) -> None:
        result = self._call(words, b"", FILE_S)
        if result.code:
            raise DeviceError(f"{self.url}: adb {words[0]}: {_last_line(result.stderr or result.stdout)}")

    def _call(self, words: Sequence[str], stdin: IO[bytes] | bytes, timeout_s: float) -> CompletedCommand:
        try:
            process = commands.run([*self._command(), *words], stdin, timeout_s)
        except FileNotFoundError:
            raise UserError("no adb on this machine; install the Android platform tools") from None
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.url}: adb {words[0]} did not end within {timeout_s:g} s") from None
        stderr = process.stderr.decode(errors="replace")
        if process.returncode and stderr.startswith(("error:", "adb: error:", "adb: device")):
            raise DeviceError(f"{self.url}: {_last_line(stderr)}; 'adb devices' lists what is connected")
        return CompletedCommand(code=process.returncode, stdout=process.stdout.decode(errors="replace"), stderr=stderr)

    def _command(self) -> list[str]:
        return ["adb", "-s", self._serial]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else ""
