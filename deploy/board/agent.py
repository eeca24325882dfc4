"""The agent of a board: answers the requests of one connection, and ends the commands that it started.

Requests are JSON lines with a ``do``; the answer is ``{"ok": ..}`` or ``{"error": .., "kind": ..}``. Where a file belongs to
a request or an answer, its chunks follow (see ``wire``).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from deploy.board import lock as locks
from deploy.board.job import SOCKET
from deploy.board.store import Store, StoreError
from deploy.board.wire import ClosedError, MalformedError, Wire
from deploy.files import UnsafeNameError, remove_below, safe_path
from profiles.errors import one_line
from profiles.json_kinds import every, is_argument, is_count, is_number, is_text, optional, table

GREETING = "edge-compress"
VERSION = 1
PID = "pid"
JOB_START_S = 60.0
STOP_S = 2.0
LINGER_S = 2.0


class CommandError(Exception):
    """A command that cannot be run, or did not end in time."""


@final
class Agent:
    """The server of one client, until that hangs up."""

    def __init__(self, root: Path, lock_folder: Path, owner: str, who: str, wire: Wire) -> None:
        self._root, self._lock_folder, self._owner, self._who, self._wire = root, lock_folder, owner, who, wire
        self._store = Store(root)
        self._lock = locks.Lock(lock_folder, owner, who)
        self._acts: dict[str, Callable[..., Any]] = {
            "missing": self._store.missing,
            "append": self._append,
            "finish": self._store.finish,
            "tree": self._store.tree,
            "listing": self._listing,
            "read": self._read,
            "forget": self._forget,
            "work": self._work,
            "run": self._run,
            "start": self._start,
            "lock": self._take,
            "release": self._lock.release,
            "status": self.status,
        }

    def serve(self) -> None:
        """Greet the client, then answer its requests until the connection ends."""
        about = {"python": platform.python_version(), "boot": locks.boot_id(), "root": str(self._root)}
        self._wire.send({GREETING: VERSION, **about})
        with contextlib.suppress(ClosedError):
            while True:
                try:
                    request = self._wire.receive()
                except MalformedError as error:
                    self._wire.send({"error": str(error), "kind": "request"})
                    continue
                self._respond(request)

    def _respond(self, request: Any) -> None:
        """Answer one request; a malformed one with one error, after which a file that may follow it is not read."""
        act = self._acts.get(request["do"]) if isinstance(request, dict) and isinstance(request.get("do"), str) else None
        fault = f"no such request; known: {', '.join(sorted(self._acts))}" if act is None else None
        given = {} if act is None else {name: value for name, value in request.items() if name != "do"}
        fault = fault or _argument_fault(act, given)
        if act is None or fault is not None:
            self._wire.send({"error": f"malformed request: {fault}", "kind": "request"})
            if act in (self._append, self._run):
                raise ClosedError("what follows is a file, and it is not known whose")
            return
        self._answer(act, given)

    def _answer(self, act: Callable[..., Any], request: dict[str, Any]) -> None:
        file: Iterator[bytes] | None = None
        try:
            result = act(**request)
            reply: dict[str, Any] = {"ok": result}
            if isinstance(result, Iterator):
                reply, file = {"ok": None}, result
        except locks.LockError as error:
            held = locks.read(self._lock_folder)
            reply = {"error": str(error), "kind": "lock", "owner": held.owner if held else ""}
        except (StoreError, UnsafeNameError) as error:
            reply = {"error": str(error), "kind": "store"}
        except CommandError as error:
            reply = {"error": str(error), "kind": "command"}
        except OSError as error:
            if isinstance(error, ClosedError):
                raise
            reply = {"error": str(error), "kind": "os"}
        except MalformedError as error:
            self._wire.send({"error": str(error), "kind": "request"})
            raise ClosedError(str(error)) from None
        except Exception as error:  # one answer to each request, whatever it holds: the connection goes on
            traceback.print_exc()
            reply = {"error": one_line(f"{type(error).__name__}: {error}"), "kind": "bug"}
        self._wire.send(reply)
        if file is not None:
            self._wire.send_chunks(file)

    def status(self) -> dict[str, Any]:
        """Describe the root, its sizes, the lock and the jobs."""
        held = locks.read(self._lock_folder)
        disk = shutil.disk_usage(self._root)
        return {
            "root": str(self._root),
            "size_bytes": self._store.size_bytes(),
            "free_bytes": disk.free,
            "python": f"{sys.executable} {platform.python_version()}",
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "code": sorted(path.name for path in (self._root / "code").glob("*") if path.is_dir()),
            "lock": None if held is None or held.is_stale else held.describe(),
            "jobs": [folder.name for folder in sorted((self._root / "jobs").iterdir()) if _is_alive(folder)],
        }

    def _listing(self, path: str) -> list[dict[str, Any]]:
        return self._store.listing(Path(path))

    def _forget(self, path: str) -> None:
        self._store.forget(Path(path))

    def _append(self, digest: str, offset: int, size: int) -> None:
        self._store.append(digest, offset, size, self._wire.chunks())

    def _read(self, path: str, offset: int) -> Iterator[bytes]:
        chunks = self._store.read(Path(path), offset)
        first = next(chunks, b"")  # opened and read before the answer says that it can be
        return itertools.chain([first], chunks)

    def _work(self, name: str) -> str:
        """Make an empty folder below work/ and return a path in it for a file or folder called ``name``."""
        folder = self._root / "work" / uuid.uuid4().hex
        path = safe_path(folder, Path(name).name)
        folder.mkdir(parents=True)
        return str(path)

    def _take(self, instead_of: str | None = None) -> None:
        """Take the board; ``instead_of`` is an owner that the client knows to be dead."""
        held = locks.read(self._lock_folder)
        if held is not None and instead_of is not None and held.owner == instead_of:
            self._end_jobs()
            locks.Lock(self._lock_folder, instead_of, "").release()
        if self._lock.take():
            self._end_jobs()
            self._store.sweep()
            self._sweep_code()

    def _sweep_code(self) -> None:
        """Remove other versions of the device side: nobody runs them while the board is ours."""
        own = Path(__file__).parent.parent.parent
        for other in (self._root / "code").glob("*"):
            if own.parent == other.parent and other.name != own.name:
                remove_below(self._root / "code", other)

    def _end_jobs(self) -> None:
        for folder in (self._root / "jobs").iterdir():
            with contextlib.suppress(OSError), _connected(folder) as job:
                job.sendall(json.dumps({"kill": True}).encode() + b"\n")
                job.settimeout(10)
                while job.recv(1 << 16):
                    continue
            remove_below(self._root / "jobs", folder)

    def _start(self, command: Sequence[str], grace_s: float) -> str:
        """Start a job under a supervisor; return its folder."""
        folder = self._root / "jobs" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        keep = [sys.executable, "-m", "deploy.board", "keep", str(folder), str(self._lock_folder), self._owner, self._who]
        with (folder / "log").open("wb") as log:
            supervisor = subprocess.Popen(
                [*keep, str(grace_s), *(command or [sys.executable, "-m", "deploy", "worker"])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (folder / PID).write_text(str(supervisor.pid))
        give_up = time.monotonic() + JOB_START_S
        while not (folder / SOCKET).exists():
            if supervisor.poll() is not None or time.monotonic() > give_up:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(supervisor.pid, signal.SIGKILL)
                words = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:] if folder.exists() else []
                raise CommandError(f"a job could not be started: {' '.join(words) or 'it said nothing'}")
            time.sleep(0.02)
        return str(folder)

    def _run(self, arguments: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """Run a command to its end; its input are the chunks that follow."""
        chunks = self._wire.chunks()
        try:
            child = subprocess.Popen(
                list(arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd=self._root,
            )
        except OSError as error:
            for _ in chunks:
                continue
            raise CommandError(f"'{arguments[0]}' cannot be run: {error.strerror}") from None
        late = threading.Event()
        timer = threading.Timer(timeout_s, _stop_late, (child, late))
        timer.start()
        try:
            words = _Words(child)
            _feed(child, chunks)
            while child.poll() is None:
                if self._wire.is_closed():
                    raise ClosedError("the client has gone")
                time.sleep(0.01)
            words.wait(LINGER_S)
        finally:
            timer.cancel()
            _kill(child)
        if late.is_set():
            raise CommandError(f"'{arguments[0]}' did not end within {timeout_s:g} s; it was stopped")
        return {"code": child.returncode, "stdout": words.text("out"), "stderr": words.text("err")}


class _Words:
    """Output of a command, read by a thread for each stream so that no pipe fills up."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._said: dict[str, list[bytes]] = {"out": [], "err": []}
        streams = (("out", child.stdout), ("err", child.stderr))
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: Any) -> None:
        while chunk := stream.read1(1 << 16):
            self._said[name].append(chunk)

    def wait(self, seconds: float) -> None:
        """Read to the end, but no longer than ``seconds`` a stream: what the command left running may hold it."""
        for reader in self._readers:
            reader.join(seconds)

    def text(self, name: str) -> str:
        return b"".join(self._said[name]).decode(errors="replace")


def _feed(child: subprocess.Popen[bytes], chunks: Iterator[bytes]) -> None:
    """Write the chunks to a command's input; chunks that it does not read are received all the same."""
    assert child.stdin is not None
    for chunk in chunks:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(chunk)
            child.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _stop_late(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a running command and its process group."""
    if child.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)


MOST_S = 1e9
"""More seconds than that no clock waits for."""
KINDS: dict[str, Callable[[Any], bool]] = {
    "str": is_argument,
    "int": is_count,
    "float": lambda value: is_number(value) and value < MOST_S,
    "str | None": optional(is_text),
    "Sequence[str]": every(is_argument),
    "Iterable[str]": every(is_text),
    "Mapping[str, str]": table(is_text),
}
"""What a request may hold for a parameter of each annotation."""


def _argument_fault(act: Callable[..., Any] | None, given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the fields of a request for ``act``, by its signature."""
    if act is None:
        return None
    signature = inspect.signature(act)
    try:
        signature.bind(**given)
    except TypeError as error:
        return str(error)
    for name, value in given.items():
        kind = str(signature.parameters[name].annotation)
        if not KINDS[kind](value):
            return f"{name} is not of the kind {kind}"
        if kind == "Sequence[str]" and act.__name__ == "_run" and not value:
            return f"{name} is empty"
    return None


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[socket.socket]:
    """Connect to a job's socket; through a descriptor, for its path may be longer than a socket's may be."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as job:
            job.settimeout(5)
            job.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
            yield job
    finally:
        os.close(descriptor)


def _is_alive(folder: Path) -> bool:
    try:
        os.kill(int((folder / PID).read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
