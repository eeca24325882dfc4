"""Readers of foreign files in a process of their own, with limits of memory and time: what kills one is one line here.

``call`` asks a server for it, ``python -m deploy.files.confined MODULE``, which has imported the reader's module, and what
that names in ``IMPORTED_BY_READERS``, and forks for each call: the imports, seconds for torch, are paid once. The server
ends after ``IDLE_S`` without a call, or with the process that started it. Where processes cannot fork (Windows), each call
is a process that imports for itself, and its limit is its time alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, final

from profiles.errors import UserError
from profiles.tables import load_object

IDLE_S = 20.0
IMPORT_S = 120.0
"""That importing a reader's module may take."""

OUT_OF_MEMORY = 77
"""Exit code of a reader that ran out of memory."""

MOST_REPLY_BYTES = 2**22
TOO_LONG = f"says more than {MOST_REPLY_BYTES:,} bytes of itself"
ONCE = "once"
"""Argument of a process that answers one request."""


class ConfinedError(Exception):
    """A reader that did not come to its end; says how, in words that follow the name of the file."""


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a reader may take.

    Attributes:
        memory_bytes: beside what its imports take.
        cpu_s: seconds of processor time.
        wall_s: seconds from its start to its end.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float

    @classmethod
    def of_file(
        cls, path: Path, *, copies: int, base_s: int = 4, bytes_a_second: int = 20_000_000, beside_bytes: int = 0
    ) -> Limits:
        """Return the limits of reading a file: 1 GiB and ``copies`` of it; ``base_s`` and the time that its size takes.

        Args:
            beside_bytes: size of further files that it refers to.
        """
        size = path.stat().st_size + beside_bytes
        cpu_s = base_s + size // bytes_a_second
        return cls(memory_bytes=2**30 + copies * size, cpu_s=cpu_s, wall_s=60.0 + 10 * cpu_s)


def call(reader: str, arguments: Mapping[str, Any], limits: Limits) -> Any:
    """Call a function in a process of its own.

    Args:
        reader: ``package.module:function``.
        arguments: keyword arguments, plain data; files are handed over and back by their paths.

    Returns:
        What the function returned, plain data of at most ``MOST_REPLY_BYTES``.

    Raises:
        UserError, OSError: the function raised one.
        ConfinedError: it was ended by a limit or by itself.
    """
    request = json.dumps({"reader": reader, "arguments": dict(arguments), "limits": asdict(limits)})
    module = reader.partition(":")[0]
    with _LOCK:
        reply = json.loads((_asked if hasattr(os, "fork") else _asked_once)(module, request, limits.wall_s))
    if "ok" in reply:
        return reply["ok"]
    if "user" in reply:
        raise UserError(*reply["user"])
    if "system" in reply:
        raise OSError(*reply["system"])
    if "ended" in reply:
        raise ConfinedError(reply["ended"])
    raise RuntimeError(f"the reader {reader} failed:\n{reply['bug']}")


@contextlib.contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """Have this process take no more than so many bytes beside what it has, within the block: what asks for more fails.

    It holds for all its threads, and where the system knows such a limit (Linux).
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + more_bytes
    bounds = [value for value in (bound, *before) if value != resource.RLIM_INFINITY]
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds), before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def python_environment() -> dict[str, str]:
    """Return this process's environment, with its packages importable however they were found.

    The working directory is no place to import from: it may be a bundle's folder, whose author chose the names in it.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONSAFEPATH": "1"}


def _environment() -> dict[str, str]:
    return {**python_environment(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@final
class _Server:
    """A server of readers; of the process that started it alone."""

    def __init__(self, module: str) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.files.confined", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )

    def ask(self, request: str, wall_s: float) -> bytes:
        """Return the reply's line; empty where the server is gone.

        Raises:
            ConfinedError: there is none in time.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        ready, _, _ = select.select([process.stdout], [], [], IMPORT_S + wall_s)
        if not ready:
            raise ConfinedError(f"takes longer than {IMPORT_S + wall_s:.0f} s to be read")
        return process.stdout.readline()

    def end(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()


_SERVERS: dict[str, _Server] = {}
_LOCK = threading.Lock()


def _asked(module: str, request: str, wall_s: float) -> bytes:
    """Ask the module's server; another one where it has ended since the last call."""
    for _ in range(2):
        server = _SERVERS.get(module)
        if server is None or server.owner != os.getpid():
            server = _SERVERS[module] = _Server(module)
        try:
            reply = server.ask(request, wall_s)
        except BaseException:
            del _SERVERS[module]
            server.end()
            raise
        if reply.endswith(b"\n"):
            return reply
        del _SERVERS[module]
        server.end()
    raise RuntimeError(f"the server of readers of {module} ended without a word")


def _asked_once(module: str, request: str, wall_s: float) -> bytes:
    """Ask a process that answers one request."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.files.confined", module, ONCE],
            input=request.encode() + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            check=False,
            timeout=IMPORT_S + wall_s,
        )
    except subprocess.TimeoutExpired:
        raise ConfinedError(f"takes longer than {IMPORT_S + wall_s:.0f} s to be read") from None
    if len(done.stdout) > MOST_REPLY_BYTES:
        return json.dumps({"ended": TOO_LONG}).encode()
    return done.stdout or json.dumps({"ended": f"ends the process that reads it (exit {done.returncode})"}).encode()


def serve(module: str, requests: IO[bytes], replies: int) -> None:
    """Answer requests, one a line, until there are no more or none has come for ``IDLE_S``."""
    failed = ""
    try:
        for name in getattr(importlib.import_module(module), "IMPORTED_BY_READERS", ()):
            importlib.import_module(name)
    except Exception:
        failed = traceback.format_exc()
    while select.select([requests], [], [], IDLE_S)[0]:
        line = requests.readline()
        if not line:
            return
        reply = json.dumps({"bug": failed}).encode() if failed else _answer(json.loads(line))
        _write(replies, reply + b"\n")


def _answer(request: dict[str, Any]) -> bytes:
    """Call the reader in a fork and return its reply, or how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _read(request, writing)
    os.close(writing)
    reply = _drained(reading)
    os.close(reading)
    if len(reply) > MOST_REPLY_BYTES:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if len(reply) > MOST_REPLY_BYTES:
        return json.dumps({"ended": TOO_LONG}).encode()
    if status == 0 and reply:
        return reply
    return json.dumps({"ended": _how(os.waitstatus_to_exitcode(status), Limits(**request["limits"]))}).encode()


def _read(request: dict[str, Any], writing: int) -> None:
    """Call the reader within its limits, write the reply and leave: never returns."""
    code = 1
    try:
        _limit(Limits(**request["limits"]))
        _write(writing, json.dumps(_reply(request)).encode())
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        os._exit(code)


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    """Call the reader, and return what it returned or raised.

    Raises:
        MemoryError: as the reader.
    """
    try:
        return {"ok": load_object(request["reader"])(**request["arguments"])}
    except MemoryError:
        raise
    except UserError as error:
        return {"user": list(error.faults)}
    except OSError as error:
        return {"system": [error.errno, error.strerror]}
    except BaseException:
        return {"bug": traceback.format_exc()[-20_000:]}


def _limit(limits: Limits) -> None:
    """Set the limits of this process; its memory counts from what it has now."""
    import resource

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
    bounds = [(resource.RLIMIT_CPU, limits.cpu_s), (resource.RLIMIT_CORE, 0)]
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bounds.append((resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory_bytes))
    for kind, bound in bounds:
        hard = resource.getrlimit(kind)[1]
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS knows no limit of memory
            resource.setrlimit(kind, (soft, hard))


def _how(code: int, limits: Limits) -> str:
    """Word how a reader ended."""
    if code == OUT_OF_MEMORY:
        return f"takes more than {limits.memory_bytes / 2**30:.1f} GiB of memory to be read"
    if code == -signal.SIGXCPU:
        return f"takes more than {limits.cpu_s} s of processor time to be read"
    if code == -signal.SIGALRM:
        return f"takes longer than {limits.wall_s:.0f} s to be read"
    name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else f"exit {code}"
    return f"ends the process that reads it ({name})"


def _drained(pipe: int) -> bytes:
    """Read a pipe to its end, or until it has more than a reply may."""
    parts, size = [], 0
    while size <= MOST_REPLY_BYTES and (part := os.read(pipe, 1 << 16)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _write(pipe: int, content: bytes) -> None:
    while content:
        content = content[os.write(pipe, content) :]


def main() -> None:
    """Serve on standard input and output; what a library prints goes nowhere."""
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if ONCE in sys.argv[2:]:
        _write(replies, json.dumps(_reply(json.loads(requests.readline()))).encode() + b"\n")
    else:
        serve(sys.argv[1], requests, replies)


if __name__ == "__main__":
    main()
