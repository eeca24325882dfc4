"""The releases of a device's models, side by side, one of them ``current``. Runs on the device.

    ROOT/                              $EDGE_HOME, or ~/.edge-compress
      trusted/*.pem                    public keys that bundles may be signed with
      incoming/SHA256[.part]           files on their way here, by content
      models/NAME/current              link to releases/ID: what is served; its change is the one moment of a switch
      models/NAME/history.json         releases in the order they were activated, and the highest version ever
      models/NAME/releases/ID/         bundle/ as it was signed, engine/ as it was built here, proof.json

``history.json`` is written before ``current`` is switched and read relative to it, so a power cut between the two
leaves a history that is still true: what comes before ``current`` in it is what a rollback goes back to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from deploy.bundle import manifest as manifests
from deploy.bundle import signing
from deploy.bundle.manifest import Manifest
from deploy.files import remove_below, sha256, switch_link, sync, write_atomically
from profiles.errors import UserError
from profiles.json_text import parse_json, read_json

KEEP = 3
PART = ".part"
RELEASE_ID = re.compile(r"[0-9]{1,16}-[0-9a-f]{12}(\.[0-9]{1,6})?")
MOST_HISTORY_BYTES = 1 << 20


class TryAgainError(RuntimeError):
    """A refusal for now: another command is at work here, or a piece does not continue its file. A later try may succeed."""


@final
@dataclass(frozen=True)
class Release:
    """A release's folder."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def engine(self) -> Path:
        return self.folder / "engine"

    def manifest(self) -> Manifest:
        """Read its bundle's manifest."""
        return manifests.read(self.bundle)[0]

    def proof(self) -> dict[str, Any]:
        """Read the results of its self-test at installation."""
        proof: dict[str, Any] = read_json(self.folder / "proof.json")
        return proof


@final
@dataclass(frozen=True)
class History:
    """A model's activations in order, and the highest version ever, with its manifest's digest."""

    activated: tuple[str, ...] = ()
    highest: int = 0
    digest: str = ""


@final
class Slot:
    """The releases of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.releases = folder / "releases"
        self._link, self._history = folder / "current", folder / "history.json"

    def current(self) -> Release | None:
        """Return the served release; where ``current`` is damaged, the last activated one that is whole.

        A ``current`` that is no link to a release here (a file, a folder, a link to elsewhere or to nothing) is mended
        by the next ``activate``; ``faults`` names it.
        """
        target = self._link_target()
        if target is not None:
            return Release(self.releases / target)
        if not _exists(self._link):
            return None
        there = {release.id: release for release in self.all()}
        activated = [there[i] for i in self._read_history()[0].activated if i in there]
        candidates = activated or list(there.values())
        if not candidates and self._link.is_symlink() and RELEASE_ID.fullmatch(Path(os.readlink(self._link)).name):
            return Release(self.releases / Path(os.readlink(self._link)).name)  # it was here: what is served is damaged
        return candidates[-1] if candidates else None

    def faults(self) -> list[str]:
        """Return what is damaged in this slot's own files, and how it is mended."""
        faults = [self._read_history()[1]]
        if self._link_target() is None and _exists(self._link):
            faults.append("current is no link to a release here; the last activated one is taken")
        return [f"{fault}; the next ship mends it" for fault in faults if fault]

    def previous(self) -> Release | None:
        """Return the release before the current one."""
        before = self._up_to_current()[:-1]
        return Release(self.releases / before[-1]) if before else None

    def history(self) -> History:
        """Read the activations so far; of a damaged history, those that the releases here tell."""
        return self._read_history()[0]

    def all(self) -> list[Release]:
        """Return every whole release, oldest first."""
        if not self.releases.is_dir():
            return []
        folders = [path for path in self.releases.iterdir() if _is_release(path)]
        return [Release(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def _link_target(self) -> str | None:
        """Return the id of the release that ``current`` leads to; None where it is no such link."""
        try:
            target = os.readlink(self._link)
        except OSError:
            return None
        folder, _, name = target.rpartition("/")
        return name if folder == "releases" and _is_release(self.releases / name) else None

    def _read_history(self) -> tuple[History, str | None]:
        """Return the history, and what is wrong with its file."""
        if not _exists(self._history):
            return History(), None
        try:
            if self._history.is_symlink():
                raise ValueError("it is a link")
            data = parse_json(self._history.read_bytes()[:MOST_HISTORY_BYTES])
            history = History(tuple(data["activated"]), data["highest"], data["digest"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            return self._rebuilt_history(), f"history.json is damaged ({type(error).__name__})"
        is_whole = (
            all(isinstance(i, str) and RELEASE_ID.fullmatch(i) for i in history.activated)
            and isinstance(history.highest, int)
            and not isinstance(history.highest, bool)
            and history.highest >= 0
            and isinstance(history.digest, str)
        )
        if is_whole:
            return history, None
        rebuilt = self._rebuilt_history()
        if type(history.highest) is int and rebuilt.highest < history.highest <= manifests.MOST_VERSION:
            rebuilt = replace(rebuilt, highest=history.highest, digest=str(history.digest))  # no older one comes in
        return rebuilt, "history.json holds what no history does"

    def _rebuilt_history(self) -> History:
        """Return the history that the releases here tell: by their times, and the highest of their versions."""
        activated, highest, digest = [], 0, ""
        for release in self.all():
            try:
                manifest, raw, _ = manifests.read(release.bundle)
            except (UserError, OSError):
                continue
            activated.append(release.id)
            if manifest.version > highest:
                highest, digest = manifest.version, hashlib.sha256(raw).hexdigest()
        target = self._link_target()
        if target in activated:  # the current one was activated last, whenever it was made
            activated = [i for i in activated if i != target] + [target]
        return History(tuple(activated), highest, digest)

    def activate(self, release: Release, version: int, digest: str, keep: int) -> None:
        """Make ``release`` the current one, then remove what is older than the last ``keep`` (at least 2)."""
        history = self.history()
        activated = [*(i for i in self._up_to_current() if i != release.id), release.id][-max(keep, 2) :]
        highest = (version, digest) if version >= history.highest else (history.highest, history.digest)
        self._write(History(tuple(activated), *highest))
        self._switch(release)
        for old in self.all():
            if old.id not in activated:
                remove_below(self.releases, old.folder)

    def go_back(self, before: Release, release: Release) -> None:
        """Make ``release``, which takes the place of ``before`` in the history, current; nothing is removed."""
        history = self.history()
        activated = tuple(release.id if i == before.id else i for i in history.activated)
        self._write(replace(history, activated=activated))
        self._switch(release)

    def fresh_part(self, release_id: str) -> Path:
        """Make an empty folder to build a release in; remains of interrupted installs are removed."""
        self.releases.mkdir(parents=True, exist_ok=True)
        for left in self.releases.glob(f"*{PART}"):
            if RELEASE_ID.fullmatch(left.name.removesuffix(PART)):
                remove_below(self.releases, left)
        part = self.releases / (release_id + PART)
        part.mkdir()
        return part

    def finish(self, part: Path) -> Release:
        """Rename a complete folder to its place among the releases; one with the same id is not touched."""
        wanted, number = self.releases / part.name.removesuffix(PART), 1
        while wanted.exists():
            number += 1
            wanted = self.releases / f"{part.name.removesuffix(PART)}.{number}"
        os.replace(part, wanted)
        sync(self.releases)
        return Release(wanted)

    def _up_to_current(self) -> list[str]:
        """Return the ids activated up to the current one, without removed ones."""
        current = self.current()
        if current is None:
            return []
        activated = list(self.history().activated)
        if current.id in activated:
            activated = activated[: activated.index(current.id)]
        there = {release.id for release in self.all()}
        return [*(i for i in activated if i in there), current.id]

    def _switch(self, release: Release) -> None:
        """Point ``current`` at a release; what is in its place and no link is kept aside, as ``current.damaged-...``."""
        if _exists(self._link) and not self._link.is_symlink():
            self._link.rename(self.folder / f"current.damaged-{time.time_ns()}")
        switch_link(self._link, f"releases/{release.id}")

    def _write(self, history: History) -> None:
        if self._history.is_dir() and not self._history.is_symlink():
            self._history.rename(self.folder / f"history.damaged-{time.time_ns()}")
        data = {"activated": history.activated, "highest": history.highest, "digest": history.digest}
        write_atomically(self._history, json.dumps(data).encode())


@final
class Store:
    """A device's store, at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming, self.keys_folder = root / "incoming", root / "trusted"

    def prepare(self) -> None:
        """Make its folders; only their owner may look into them."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.incoming, self.keys_folder, self.root / "models"):
            folder.mkdir(exist_ok=True)

    def slot(self, name: str) -> Slot:
        """Return the releases of the model ``name``, which need not be there yet."""
        if not manifests.is_name(name):
            raise UserError(f"{ascii(name)[:80]} is no name for a model")
        return Slot(self.root / "models" / name)

    def slots(self) -> list[Slot]:
        """Return every model that has a current release."""
        folder = self.root / "models"
        folders = [path for path in sorted(folder.iterdir()) if manifests.is_name(path.name)] if folder.is_dir() else []
        slots = [Slot(path) for path in folders if path.is_dir()]
        return [slot for slot in slots if slot.current() is not None]

    def empty_slots(self) -> list[Slot]:
        """Return every model that has files of its own and no release to serve."""
        folder = self.root / "models"
        folders = [path for path in sorted(folder.iterdir()) if manifests.is_name(path.name)] if folder.is_dir() else []
        return [Slot(path) for path in folders if path.is_dir() and Slot(path).current() is None and Slot(path).faults()]

    def the_slot(self, name: str | None) -> Slot:
        """Return the model ``name``, or the only one.

        Raises:
            UserError: there is none, or more than one and no name was given.
        """
        slots = {slot.name: slot for slot in self.slots()}
        if name is None and len(slots) == 1:
            return next(iter(slots.values()))
        if not slots:
            raise UserError(f"{self.root}: no model is served here; `compress ship` brings one")
        if name is None or name not in slots:
            remedy = "say which with --name" if name is None else f"there is no {name!r}"
            raise UserError(f"{self.root}: {remedy}; models here: {', '.join(slots) or 'none'}")
        return slots[name]

    def keys(self) -> dict[str, bytes]:
        """Read the trusted public keys, by id."""
        return signing.trusted(self.keys_folder)

    def trust(self, public: bytes) -> str:
        """Trust a public key from now on; return its id."""
        self.prepare()
        name = signing.key_id(public)
        write_atomically(self.keys_folder / f"{name}.pem", signing.to_pem(public).encode())
        return name

    def distrust(self, key: str) -> None:
        """Trust the key with that id no longer.

        Raises:
            UserError: it was not trusted.
        """
        files = [p for p in self.keys_folder.glob("*.pem") if signing.key_id(_read_key(p)) == key]
        if not files:
            raise UserError(f"{self.root}: key {key!r} is not trusted; trusted: {', '.join(self.keys()) or 'none'}")
        for path in files:
            path.unlink()
        sync(self.keys_folder)

    def held(self, digests: set[str]) -> dict[str, Path]:
        """Return which of these contents are here whole, and where; each is read to be sure."""
        places = {
            d: self.incoming / d for d in digests if (self.incoming / d).is_file() and _has_digest(self.incoming / d, d)
        }
        for release in (release for slot in self.slots() for release in slot.all()):
            with contextlib.suppress(UserError, OSError):
                for path, entry in release.manifest().files.items():
                    place = release.bundle / path
                    if entry.sha256 in digests - set(places) and place.is_file() and _has_digest(place, entry.sha256):
                        places[entry.sha256] = place
        return places

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the store exclusively; the lock ends with this process, however that ends.

        Raises:
            TryAgainError: another process holds it.
        """
        self.prepare()
        with locked(self.root / "lock"):
            yield

    def free_bytes(self) -> int:
        """Return the free bytes of the store's disk."""
        return shutil.disk_usage(self.root).free


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``.

    Raises:
        TryAgainError: another process holds it.
    """
    with path.open("a+") as file:
        if not take_lock(file.fileno()):
            file.seek(0)
            raise TryAgainError(f"{path.parent} is in use by {file.read().strip() or 'another process'}")
        file.truncate(0)
        file.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def take_lock(handle: int) -> bool:
    """Lock an open file until it is closed; return False when another process has it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def default_root() -> Path:
    """Return ``$EDGE_HOME``, or ``~/.edge-compress``."""
    return Path(os.environ.get("EDGE_HOME") or Path.home() / ".edge-compress")


def _exists(path: Path) -> bool:
    """Return whether anything is at ``path``, a dangling link too."""
    return path.is_symlink() or path.exists()


def _is_release(path: Path) -> bool:
    return RELEASE_ID.fullmatch(path.name) is not None and not path.is_symlink() and path.is_dir()


def _has_digest(path: Path, digest: str) -> bool:
    return sha256(path) == digest


def _read_key(path: Path) -> bytes:
    return signing.read_pem(path)
