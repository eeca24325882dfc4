"""Steps keyed by content: what is finished is never done twice, and nothing half-made is ever read.

A step is a folder ``<kind>-<key>``; its key hashes everything that decides its result. It is made in
``<kind>-<key>.part``, synced to disk and renamed, so it is there whole or not at all. What a killed
run left under ``unfinished/`` of a part (a training's checkpoints) is what the next one goes on from.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.execution import distributed
from compress.execution.progress import Progress
from deploy.files import sync, sync_tree
from profiles.errors import UserError

FACTS = "step.json"
UNFINISHED = "unfinished"


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished step.

    Attributes:
        key: what the step is known by to those that build on it.
        facts: what its maker said of it.
        seconds: that making it took, then.
        fresh: whether this run made it.
    """

    folder: Path
    key: str
    facts: Mapping[str, Any]
    seconds: float
    fresh: bool


@final
class StepCache:
    """Finished steps under one folder, shared by all runs.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root, self._progress = root, progress
        self.seconds_making = 0.0
        self._made: set[str] = set()
        check_writable(root)

    def step(
        self,
        kind: str,
        decided_by: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any] | None],
        *,
        together: bool = False,
    ) -> Step:
        """The step of that kind and key; made now unless it is there.

        Args:
            decided_by: JSON data; everything that decides the result.
            make: fills the folder it is given, and returns facts to keep.
            together: with several processes, all of them make it (they train one model) and the main one keeps it;
                else the main one makes it while the others wait.
        """
        key = f"{kind}-{digest(decided_by)[:20]}"
        folder = self.root / key
        if distributed.from_main(not (folder / FACTS).exists()):
            if distributed.is_main():
                with self._locked(key):
                    if not (folder / FACTS).exists():
                        self._make(kind, key, folder, decided_by, make)
                        self._made.add(key)
            elif together:
                with tempfile.TemporaryDirectory() as scratch:
                    self._follow(key, Path(scratch), make)
            distributed.wait()
        stored = json.loads((folder / FACTS).read_text())
        fresh = key in self._made
        return Step(folder=folder, key=key, facts=stored["facts"], seconds=stored["seconds"], fresh=fresh)

    def _follow(self, key: str, scratch: Path, make: Callable[[Path], Mapping[str, Any] | None]) -> None:
        """Make a step beside the main process, from the same checkpoint, and drop the result."""
        unfinished = self.root / f"{key}.part" / UNFINISHED
        if unfinished.exists():
            shutil.copytree(unfinished, scratch / UNFINISHED)
        make(scratch)

    def _make(
        self,
        kind: str,
        key: str,
        folder: Path,
        decided_by: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any] | None],
    ) -> None:
        part = folder.with_name(f"{key}.part")
        _clear(part)
        started = time.perf_counter()
        try:
            facts = dict(make(part) or {})
        except BaseException:
            _clear(part)
            with contextlib.suppress(OSError):
                part.rmdir()  # stays when there is a checkpoint in it
            raise
        seconds = time.perf_counter() - started
        self.seconds_making += seconds
        shutil.rmtree(part / UNFINISHED, ignore_errors=True)
        about = {"kind": kind, "decided_by": decided_by, "facts": facts, "seconds": seconds}
        (part / FACTS).write_text(json.dumps(about, indent=1, sort_keys=True))
        sync_tree(part)
        part.rename(folder)
        sync(self.root)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """One maker a step; the lock goes with the process, however it ends."""
        with (self.root / f"{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.say(f"  waiting: another run is making {key}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
            (self.root / f"{key}.lock").unlink(missing_ok=True)


def digest(data: Any) -> str:
    """SHA-256 of JSON data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=_plain).encode()).hexdigest()


def source_digest(source: str) -> str:
    """A hash of one module's code; comments, docstrings and layout do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return digest(ast.dump(tree))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    return {package: importlib.metadata.version(package) for package in packages}


def steps_folder() -> Path:
    """Name the folder of finished steps: ``$COMPRESS_STEPS``, or ``runs/.steps``."""
    return Path(os.environ.get("COMPRESS_STEPS", "runs/.steps"))


def check_writable(folder: Path) -> None:
    """Make ``folder``; raise ``UserError`` when it is a file or cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder, or a name that is free")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except NotADirectoryError:
        raise UserError(f"{folder} lies inside a file; give a folder, or a name that is free") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}); give another folder") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a step's key")


def _clear(part: Path) -> None:
    part.mkdir(parents=True, exist_ok=True)
    for entry in part.iterdir():
        if entry.name != UNFINISHED:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
