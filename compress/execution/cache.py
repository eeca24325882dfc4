"""Steps keyed by content: what is finished is never done twice, and nothing half-made or damaged is ever read.

A step is a folder ``<kind>-<key>``; its key hashes everything that decides its result. It is made in
``<kind>-<key>.part``, synced to disk and renamed, so it is there whole or not at all. What a killed
run left under ``unfinished/`` of a part (a training's checkpoints) is what the next one goes on from.

A step's manifest, written last, has the size and the SHA-256 of each of its files. It is checked when the step is first
read in a process; a damaged step is named, set aside and made anew.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from compress.execution import distributed
from compress.execution.locks import locked
from compress.execution.progress import Progress, doing
from deploy.files import sha256, sync, sync_tree
from profiles.errors import UserError
from profiles.json_text import read_json

FACTS = "step.json"
UNFINISHED = "unfinished"
DOING = {
    "check-data": "reading every sample once",
    "check-model": "checking that a model takes the data and exports",
    "engine": "building an engine",
    "export": "exporting to ONNX",
    "judged": "evaluating an engine",
    "post-training": "quantising without training",
    "race": "opening engines and timing them",
}
"""What is said of a step that takes long, by its kind; of others the kind itself."""
MANIFEST = "manifest.json"
MEASURE_AGAIN = (
    "--measure-again trains nothing; the recipe has changed, or the gate decides otherwise by the new times: run without it "
    "to make what is missing"
)


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """Finished step.

    Attributes:
        key: what the step is known by to those that build on it.
        facts: what its maker said of it.
        seconds: that making it took, then.
    """

    folder: Path
    key: str
    facts: Mapping[str, Any]
    seconds: float


@final
class StepCache:
    """Cache of finished steps under one folder, shared by all runs.

    Args:
        trains: whether steps that train may be made; else one that is not there is a fault of the user's.
        why_not: ends that fault: what trains nothing, and what makes the step.

    Attributes:
        seconds_making, seconds_training, seconds_checking: spent on steps that were not there, on those of them that train,
            and on checking those that were.
        asked, made: keys of the steps that were asked for, and of those that were not there; the user may clear both.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path, progress: Progress, *, trains: bool = True, why_not: str = MEASURE_AGAIN) -> None:
        self.root, self._progress, self._trains, self._why_not = root, progress, trains, why_not
        self.seconds_making = self.seconds_training = self.seconds_checking = 0.0
        self.asked: set[str] = set()
        self.made: set[str] = set()
        self._sound: set[str] = set()
        self._faults: dict[str, str] = {}
        check_writable(root)

    def step(
        self,
        kind: str,
        decided_by: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any] | None],
        *,
        together: bool = False,
    ) -> Step:
        """Return the step of that kind and key; it is made now unless it is there.

        Args:
            decided_by: JSON data; everything that decides the result.
            make: fills the folder it is given, and returns facts to keep.
            together: with several processes, all of them make it (they train one model) and the main one keeps it;
                else the main one makes it while the others wait.
        """
        key = f"{kind}-{digest(decided_by)[:20]}"
        folder = self.root / key
        self.asked.add(key)
        if distributed.from_main(distributed.is_main() and not self._is_sound(key)):
            if together and not self._trains:
                raise UserError(f"{kind}: not there, and {self._why_not}")
            if distributed.is_main():
                with locked(self.root / f"{key}.lock", lambda owner: self._say_waits(key, owner)):  # one maker each
                    if not self._is_sound(key):
                        self._set_aside(folder)
                        seconds = self._make(kind, key, folder, decided_by, make)
                        self.seconds_training += seconds if together else 0.0
                        self.made.add(key)
                        self._sound.add(key)
            elif together:
                with tempfile.TemporaryDirectory() as scratch:
                    self._follow(key, Path(scratch), make)
            distributed.wait()
        return self._read(key)

    def find(self, kind: str, decided_by: Mapping[str, Any]) -> Step | None:
        """Return the step of that kind and key if it is there whole; None else."""
        key = f"{kind}-{digest(decided_by)[:20]}"
        return self._read(key) if distributed.from_main(distributed.is_main() and self._is_sound(key)) else None

    def _read(self, key: str) -> Step:
        stored = json.loads((self.root / key / FACTS).read_text())
        return Step(folder=self.root / key, key=key, facts=stored["facts"], seconds=stored["seconds"])

    def _is_sound(self, key: str) -> bool:
        """Whether a step is there whole; checked once a process, and told where it is damaged."""
        if key in self._sound:
            return True
        folder = self.root / key
        if not folder.exists():
            return False
        started = time.perf_counter()
        fault = step_fault(folder)
        self.seconds_checking += time.perf_counter() - started
        if fault:
            self._faults[key] = fault
            return False
        self._sound.add(key)
        return True

    def _set_aside(self, folder: Path) -> None:
        """Keep a damaged step under another name, and say so."""
        if not folder.exists():
            return
        number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}.damaged-{n}").exists())
        aside = folder.with_name(f"{folder.name}.damaged-{number}")
        folder.rename(aside)
        fault = self._faults.pop(folder.name, "damaged")
        self._progress.say(f"  {folder.name}: {fault}; it is made anew, and what was there is kept as {aside.name}")

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
    ) -> float:
        """Make a step; return the seconds that it took."""
        part = folder.with_name(f"{key}.part")
        _clear(part)
        started = time.perf_counter()
        try:
            with doing(self._progress, DOING.get(kind, kind)):
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
        (part / MANIFEST).write_text(json.dumps(_files_of(part), indent=1, sort_keys=True))
        sync_tree(part)
        part.rename(folder)
        sync(self.root)
        return seconds

    def _say_waits(self, key: str, owner: str) -> None:
        self._progress.say(f"  waiting: {key} is being made by {owner}")


def step_fault(folder: Path) -> str:
    """Compare a step with its manifest: the first fault in a line, empty where it is as it was made.

    Files that are not in the manifest are no part of the step and do no harm.
    """
    try:
        listed = read_json(folder / MANIFEST)
        files = {str(name): (int(size), str(sha256_)) for name, (size, sha256_) in listed.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}, as an earlier version or a damaged disk leaves it"
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return f"{MANIFEST} is damaged"
    if FACTS not in files:
        return f"{MANIFEST} is damaged"
    for name, (size, wanted) in sorted(files.items()):
        path = folder / name
        try:
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if sha256(path) != wanted:
                return f"{name} is damaged: its SHA-256 is not that which it was made with"
        except OSError:
            return f"{name} is missing or cannot be read"
    return ""


def _files_of(folder: Path) -> dict[str, tuple[int, str]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, sha256(path)) for path in paths}


def digest(data: Any) -> str:
    """Compute the SHA-256 of JSON data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=_plain).encode()).hexdigest()


def source_digest(source: str) -> str:
    """Hash one module's code; comments, docstrings and layout do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return digest(ast.dump(tree))


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages that decide a result."""
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
