"""The host's end of an agent: requests that survive a lost connection where repeating them does no harm."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, final

from deploy.board.agent import GREETING, VERSION
from deploy.board.answers import is_answer
from deploy.board.wire import CHUNK_BYTES, ClosedError, SilentError, Wire
from deploy.files import sha256
from profiles.errors import one_line

GREETING_S = 60.0
SILENT_S = 120.0
HASHING_S = 1200.0
MOST_NOISE_LINES = 200
MOST_WORDS = 2000
"""Bytes of a line of ssh's words that are kept."""
RECONNECT_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
T = TypeVar("T")


class LinkError(Exception):
    """A broken connection; holds the last lines that ssh printed."""


class RefusedError(Exception):
    """A refusal by the board: a full disk, a command that cannot be run, a lock."""

    def __init__(self, words: str, kind: str, owner: str = "") -> None:
        super().__init__(words)
        self.kind, self.owner = kind, owner


@final
class Link:
    """A connection to one agent, made anew when it breaks.

    Args:
        connect: starts a process whose standard streams are the agent's.
        raise_if_final: what connection words mean: raises what is to be told at once, returns when trying again may help.
        say: tells the user that something takes longer.
    """

    def __init__(
        self,
        connect: Callable[[], subprocess.Popen[bytes]],
        raise_if_final: Callable[[str], None],
        say: Callable[[str], None] = lambda text: None,
        *,
        patience_s: float = RECONNECT_S,
    ) -> None:
        self._connect, self._raise_if_final, self._say, self._patience_s = connect, raise_if_final, say, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire
        self._words: deque[str] = deque(maxlen=5)
        self.on_connect: Callable[[Link], None] = lambda link: None

    def call(self, do: str, *, idle_s: float = SILENT_S, **request: Any) -> Any:
        """Send a request that may be repeated; reconnect for up to ``patience_s`` when needed.

        Raises:
            RefusedError: the board's word on it.
            LinkError: no connection for ``patience_s``.
        """
        return self.retry(lambda: self.once(do, idle_s=idle_s, **request))

    def once(self, do: str, *, idle_s: float = SILENT_S, file: Iterable[bytes] | None = None, **request: Any) -> Any:
        """Send a request once, with the chunks of a file after it if there is one."""
        with self._talking():
            self._open()
            return self._ask({"do": do, **request}, idle_s, file)

    def retry(self, act: Callable[[], T]) -> T:
        """Repeat ``act`` after each lost connection while time is left; progress in between extends it."""
        give_up, pause_s, announced = time.monotonic() + self._patience_s, FIRST_PAUSE_S, False
        while True:
            self._moved = False
            try:
                result = act()
            except LinkError as error:
                self._raise_if_final(str(error))
                if self._moved:
                    give_up, pause_s = time.monotonic() + self._patience_s, FIRST_PAUSE_S
                if time.monotonic() > give_up:
                    raise
                if not announced:
                    self._say(f"the connection was lost ({error}); connecting again")
                    announced = True
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if announced:
                self._say("connected again")
            return result

    def put(self, path: Path, digest: str) -> None:
        """Send the missing part of a file."""
        size = path.stat().st_size

        def send() -> None:
            missing = self.once("missing", digests=[digest])
            if digest not in missing:
                return
            offset = missing[digest] if missing[digest] <= size else 0
            with path.open("rb") as file:
                file.seek(offset)
                self.once("append", digest=digest, offset=offset, size=size, file=self._counted(_chunks(file)))
            self.once("finish", digest=digest, idle_s=HASHING_S)

        self.retry(send)

    def get(self, remote: str, local: Path, size: int, digest: str) -> None:
        """Fetch one file and verify it; ``local`` exists whole or not at all.

        Raises:
            LinkError: it came altered, again and again.
        """
        part = local.with_name(local.name + ".part")
        part.unlink(missing_ok=True)

        def fetch() -> None:
            with part.open("ab") as file:
                self._fetch(remote, file, size)
            if part.stat().st_size != size or sha256(part) != digest:
                part.unlink()
                raise LinkError(f"{remote} was altered on its way")

        try:
            self.retry(fetch)
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        self._break()

    @property
    def is_open(self) -> bool:
        return self._process is not None

    def _fetch(self, remote: str, file: IO[bytes], size: int) -> None:
        with self._talking():
            self._open()
            self._ask({"do": "read", "path": remote, "offset": file.tell()}, SILENT_S, None)
            for chunk in self._counted(self._wire.chunks()):
                if file.tell() + len(chunk) > size:
                    raise ClosedError(f"{remote} is longer than was said")
                file.write(chunk)

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            self._moved = True

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Drop the connection on any fault inside: half a conversation is never continued."""
        try:
            yield
        except (ClosedError, SilentError, ValueError) as error:
            raise LinkError(self._failure_text(str(error))) from None
        except (KeyboardInterrupt, OSError):
            self._break()
            raise

    def _ask(self, request: dict[str, Any], idle_s: float, file: Iterable[bytes] | None) -> Any:
        self._wire.idle_s = SILENT_S
        self._wire.send(request)
        if file is not None:
            self._wire.send_chunks(file)
        self._wire.idle_s = idle_s
        reply = self._wire.receive()
        self._wire.idle_s = SILENT_S
        if isinstance(reply, dict) and isinstance(reply.get("error"), str):
            raise RefusedError(one_line(reply["error"]), str(reply.get("kind", "")), str(reply.get("owner", "")))
        if not isinstance(reply, dict) or "ok" not in reply or not is_answer(request["do"], reply["ok"]):
            raise ClosedError("it answers, but not as the device side does")
        return reply["ok"]

    def _open(self) -> None:
        if self._process is not None:
            return
        self._words.clear()
        self._process = process = self._connect()
        assert process.stdin and process.stdout and process.stderr
        threading.Thread(target=_drain, args=(process.stderr, self._words), daemon=True).start()
        self._wire = Wire(process.stdout.fileno(), process.stdin.fileno(), GREETING_S)
        for _ in range(MOST_NOISE_LINES):  # a login script may have something to say first
            line = self._wire.line()
            if line.startswith(b'{"' + GREETING.encode()):
                break
        else:
            raise ClosedError("it talks, but not as the device side does")
        self._wire.idle_s = SILENT_S
        if f'"{GREETING}": {VERSION}'.encode() not in line:  # the device side is sent anew when it changes
            raise ClosedError("it greets, but not as the device side does")
        try:
            self.on_connect(self)
        except RefusedError:
            self.close()
            raise

    def _failure_text(self, fault: str) -> str:
        process = self._process
        code = self._break()
        time.sleep(0.05)  # the reader of its last words may be a moment behind
        words = " | ".join(self._words)
        return words or (f"{fault}, exit {code}" if process is not None else fault)

    def _break(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.kill()
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        return code


def to_chunks(content: IO[bytes] | bytes) -> Iterator[bytes]:
    """Split bytes or an open file into chunks."""
    if isinstance(content, bytes):
        return (content[i : i + CHUNK_BYTES] for i in range(0, len(content), CHUNK_BYTES))
    return _chunks(content)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _drain(stream: IO[bytes], words: deque[str]) -> None:
    while line := stream.readline(MOST_WORDS):
        if line.strip():
            words.append(line.decode(errors="replace").strip())
