"""A board over SSH: ``ssh://[user@]host[:port][?python=PATH][&root=FOLDER]``, by the user's own OpenSSH client.

Keys, agents, jump hosts and known hosts are the user's configuration's (``$EDGE_SSH_CONFIG`` names another file) and
are never overruled. All connections share one, which ssh ends by itself when this process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, final

from deploy.board import install, lock, root, ssh_errors
from deploy.board.address import ROOT, Address
from deploy.board.link import Link, LinkError, RefusedError, to_chunks
from deploy.devices import commands
from deploy.devices.base import CompletedCommand, Device, DeviceError
from deploy.devices.ssh_connection import SharedConnection, is_dead_here
from deploy.files import UnsafeNameError, name_fault, safe_path, sha256
from deploy.files.confined import python_environment
from profiles.errors import UserError

SHELL_S, SHELL_ATTEMPTS = 180.0, 3
CUT = 255
"""ssh's own exit code: what it ran may have ended or not."""
RUN_SPARE_S = 60.0
GRACE_S = 120.0
"""How long a job waits on the board for its client to come back, and the client for the board."""


@final
class SSH(Device):
    """A board behind sshd. The first use installs the device side there and locks the board for this run."""

    def __init__(self, url: str) -> None:
        self._address = Address.read(url)
        self.url = self._address.url
        self._connection = SharedConnection(self._address)
        self._contact: install.ProbeResult | None = None
        self._link: Link | None = None
        self._lock = threading.RLock()
        self._holds = False

    def put(self, local: Path) -> str:
        with self._device_errors():
            link = self._locked_link()
            files = {"": local} if local.is_file() else {str(p.relative_to(local)): p for p in _files(local)}
            digests = {name: sha256(path) for name, path in files.items()}
            missing = link.call("missing", digests=list(digests.values()))
            for name, path in files.items():
                if digests[name] in missing:
                    link.put(path, digests[name])
            if local.is_file():
                return f"{link.call('tree', entries={local.name: digests['']})}/{local.name}"
            return str(link.call("tree", entries=digests))

    def get(self, remote: str, local: Path) -> None:
        with self._device_errors():
            link = self._locked_link()
            for name, size, digest in self._listing(link, remote):
                source, target = (f"{remote}/{name}", safe_path(local, name)) if name else (remote, local)
                target.parent.mkdir(parents=True, exist_ok=True)
                link.get(source, target, size, digest)

    def _listing(self, link: Link, remote: str) -> list[tuple[str, int, str]]:
        """Return path, bytes and digest of each file of ``remote``, checked before the first one is fetched."""
        entries = link.call("listing", path=remote, idle_s=1200.0)
        try:
            files = [(entry["path"], entry["size"], entry["sha256"]) for entry in entries]
        except (TypeError, LookupError):
            raise DeviceError(f"{self.url}: the board's list of files is malformed") from None
        for name, size, digest in files:
            fault = name_fault(name) if name or len(files) > 1 else None
            if fault is not None or not isinstance(size, int) or not isinstance(digest, str):
                raise DeviceError(f"{self.url}: the board named a file {ascii(name)[:80]}: {fault or 'its size is none'}")
        return files

    def path(self, local: Path) -> str:
        with self._device_errors():
            return str(self._locked_link().call("work", name=local.name))

    def forget(self, remote: str) -> None:
        with self._device_errors():
            self._locked_link().call("forget", path=remote)

    def run(self, arguments: Sequence[str], *, stdin: IO[bytes] | bytes = b"", timeout_s: float = 60.0) -> CompletedCommand:
        with self._device_errors():
            link = self._locked_link()
            link.call("status")  # a connection that broke while nothing was asked is made anew before, not in the middle
            result = link.once(
                "run", arguments=list(arguments), timeout_s=timeout_s, file=to_chunks(stdin), idle_s=timeout_s + RUN_SPARE_S
            )
            return CompletedCommand(**result)

    def deploy_command(self) -> list[str]:
        with self._device_errors():
            self._agent()
            return [self._python, "-m", "deploy"]

    def start_worker(self) -> subprocess.Popen[str]:
        with self._device_errors():
            folder = self._locked_link().call("start", command=[], grace_s=GRACE_S)
        attach = self._command(self._on_board(["-m", "deploy.board", "attach", folder]))
        # A signal that comes before the relay listens for it waits, or the relay would die of it and leave its job.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.board", "relay", str(GRACE_S), *attach],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=python_environment(),
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def status(self) -> dict[str, Any]:
        """Describe sizes, versions and the lock; does not take the lock."""
        with self._device_errors():
            description: dict[str, Any] = self._agent().call("status", idle_s=600.0)
            return description

    def clean(self) -> None:
        with self._device_errors():
            self._locked_link()
        self.close(keep_connection=True)
        assert self._contact is not None
        lock_file = shlex.quote(f"{self._lock_folder}/{lock.FILE}")
        parent = shlex.quote(os.path.dirname(self._contact.root))
        script = f"root={shlex.quote(self._contact.root)}\n{root.claim_script()}"
        script += root.remove_script(f"rm -f -- {lock_file} 2>/dev/null")
        output = self._shell(script + (f"rmdir {parent} 2>/dev/null; true\n" if self._address.root == ROOT else ""))
        self._refuse_foreign(root.foreign_reason(output))
        self.close()

    def close(self, *, keep_connection: bool = False) -> None:
        """Release the lock and disconnect."""
        with self._lock:
            if self._link is not None:
                if self._holds:
                    self._release(self._link)
                self._link.close()
                self._link, self._holds = None, False
            if not keep_connection and self._connection.folder is not None:
                self._contact = None
                self._connection.close()

    @staticmethod
    def _release(link: Link) -> None:
        """Release the lock, by a new connection where this one has broken: else the next run waits for it to go stale."""
        for _ in range(2):
            try:
                link.once("release")
            except LinkError:
                continue
            except (RefusedError, DeviceError, OSError):
                pass
            return

    @property
    def _python(self) -> str:
        assert self._contact is not None
        return install.choose_interpreter(self._contact, self.url, self._address.python).executable

    def _agent(self) -> Link:
        """Return the link to the board's agent; installs the device side first."""
        with self._lock:
            if self._link is None:
                self._contact = self._install()
                self._link = Link(self._start_agent, self._raise_if_final, self._say, patience_s=GRACE_S)
            return self._link

    def _locked_link(self) -> Link:
        """Return the link, with the board locked for this run."""
        with self._lock:
            link = self._agent()
            if not self._holds:
                link.on_connect = self._take
                self._holds = True
                try:
                    if link.is_open:
                        self._take(link)
                    else:
                        link.call("lock")
                except RefusedError:
                    self._holds, link.on_connect = False, lambda link: None
                    raise
            return link

    def _take(self, link: Link) -> None:
        try:
            link.once("lock")
        except RefusedError as error:
            if error.kind != "lock" or not is_dead_here(error.owner):
                raise
            link.once("lock", instead_of=error.owner)

    def _install(self) -> install.ProbeResult:
        """Probe the board, and send the device side where it is missing."""
        name, archive = install.payload()
        contact = self._probe()
        python = install.base_interpreter(contact, self.url, self._address.python)
        if name not in contact.code:
            words = shlex.join([python.executable, "-c", install.unpack_script(), contact.root, name])
            if "unpacked" not in self._shell(words, archive):
                raise DeviceError(f"{self.url}: the device side could not be installed under {contact.root}")
        wheels = os.environ.get("EDGE_WHEELS")
        if wheels and not any(i.can_work for i in contact.interpreters):
            self._make_venv(contact, python, Path(wheels))
            contact = self._probe()
        install.choose_interpreter(contact, self.url, self._address.python)
        self._code = f"{contact.root}/code/{name}"
        return contact

    def _probe(self) -> install.ProbeResult:
        python = self._address.python
        candidates = [f"{self._address.root}/venv/bin/python"] + ([python] if python else ["python3", "python"])
        try:
            return install.parse_probe(self._shell(install.probe_script(self._address.root, candidates)))
        except install.ProbeError as error:
            raise DeviceError(f"{self.url}: {error}") from None
        except root.ForeignRootError as error:
            self._refuse_foreign(str(error))
            raise

    def _refuse_foreign(self, reason: str | None) -> None:
        if reason is not None:
            raise UserError(f"{self.url}: {root.remedy(self._address.root, reason)}")

    def _make_venv(self, contact: install.ProbeResult, python: install.Interpreter, wheels: Path) -> None:
        """Make a venv on the board from local wheels; it is complete once its marker, written last, is there."""
        wheel_files = sorted(wheels.glob("*.whl"))
        pip = install.pip_wheel()
        if not wheel_files:
            raise UserError(f"EDGE_WHEELS={wheels}: no wheels there")
        self._say(f"making a venv from {len(wheel_files)} wheels")
        venv, wheel_folder = f"{contact.root}/venv", f"{contact.root}/wheels"
        self._shell(f"rm -rf {shlex.quote(venv)} {shlex.quote(wheel_folder)}; mkdir -p {shlex.quote(wheel_folder)}")
        for wheel in (pip, *wheel_files):
            self._shell(f"cat > {shlex.quote(f'{wheel_folder}/{wheel.name}')}", wheel.read_bytes(), timeout_s=1800.0)
        commands = " && ".join(
            [
                shlex.join([python.executable, "-m", "venv", "--without-pip", "--system-site-packages", venv]),
                f"PIP_CONFIG_FILE=/dev/null PYTHONPATH={shlex.quote(f'{wheel_folder}/{pip.name}')} "
                + shlex.join([f"{venv}/bin/python", "-m", "pip", "install", "-q", "--no-index", "--no-deps"])
                + "".join(f" {shlex.quote(f'{wheel_folder}/{wheel.name}')}" for wheel in wheel_files),
                f"touch {shlex.quote(f'{venv}/{install.VENV_READY}')}",
            ]
        )
        self._shell(f"{{ {commands}; }}; code=$?; rm -rf {shlex.quote(wheel_folder)}; exit $code", timeout_s=1800.0)

    def _shell(self, script: str, stdin: bytes = b"", timeout_s: float = SHELL_S) -> str:
        """Run a shell script on the board before there is an agent; it must be harmless to run it twice.

        Raises:
            DeviceError: the board cannot be reached, the script failed, or took too long.
        """
        try:
            for _ in range(SHELL_ATTEMPTS):
                command = self._command(shlex.join(["sh", "-c", script]))
                process = commands.run(command, stdin, timeout_s)
                if process.returncode != CUT:
                    break
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.url}: no answer within {timeout_s:g} s") from None
        except LinkError as error:
            raise DeviceError(self._explained(str(error))) from None
        stderr = process.stderr.decode(errors="replace").strip()
        if process.returncode == CUT:
            raise DeviceError(self._explained(stderr))
        if process.returncode:
            raise DeviceError(
                f"{self.url}: {stderr.splitlines()[-1] if stderr else f'exit {process.returncode}'}{_space_hint(stderr)}"
            )
        return process.stdout.decode(errors="replace")

    @property
    def _lock_folder(self) -> str:
        """The folder of the board's lock: /tmp, shared by all users, or the root where one was named."""
        assert self._contact is not None
        return "/tmp" if self._address.root == ROOT else self._contact.root

    def _start_agent(self) -> subprocess.Popen[bytes]:
        assert self._contact is not None
        words = ["-m", "deploy.board", "agent", self._contact.root, self._lock_folder, self._connection.owner, _user_name()]
        return subprocess.Popen(
            self._command(self._on_board(words)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _on_board(self, arguments: Sequence[str]) -> str:
        """Return a shell command that runs our Python with our code, beside the PYTHONPATH of the board's user."""
        assert self._contact is not None
        code = shlex.quote(self._code)
        script = (
            f"cd {shlex.quote(self._contact.root)} && PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} "
            f"exec {shlex.join([self._python, *arguments])}"
        )
        return shlex.join(["sh", "-c", f"export ORT_DISABLE_TELEMETRY=1; {script}"])

    def _command(self, words: str) -> list[str]:
        """Return the local command that runs the shell words ``words`` on the board."""
        with self._lock:
            if self._connection.folder is None:
                atexit.register(self.close)
            return self._connection.command(words)

    def _raise_if_final(self, words: str) -> None:
        """Raise an error that trying again cannot mend."""
        if ssh_errors.is_final(words):
            raise DeviceError(self._explained(words))

    def _explained(self, words: str) -> str:
        return f"{self.url}: {ssh_errors.explain(words)}"

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self.url}: {text}\n")

    @contextlib.contextmanager
    def _device_errors(self) -> Any:
        """Turn refusals and broken connections into device errors; one conversation at a time."""
        try:
            with self._lock:
                yield
        except RefusedError as error:
            if error.kind == "lock":
                raise DeviceError(f"{self.url} is in use by {error}; try again when that run is over") from None
            raise DeviceError(f"{self.url}: {error}") from None
        except LinkError as error:
            raise DeviceError(self._explained(str(error))) from None
        except UnsafeNameError as error:
            raise DeviceError(f"{self.url}: {error}") from None


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no file to put on a device")
    return files


def _user_name() -> str:
    return f"{getpass.getuser()} on {os.uname().nodename} (process {os.getpid()})"


def _space_hint(stderr: str) -> str:
    return "; free some space on the board" if "No space left" in stderr else ""
