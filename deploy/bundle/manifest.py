"""manifest.json: a bundle's identity, its files and its target machine. Canonical, so that it can be signed.

Canonical: keys sorted, no space between tokens, ASCII, one newline at the end. Bytes that differ from that form are
refused, so one content has one signature and nothing hides in a repeated key.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, final

from deploy.files import name_fault, sha256
from profiles.errors import UserError, one_line
from profiles.json_kinds import is_count

SCHEMA = 2
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
DECODED = "decoded"
MOST_MANIFEST_BYTES = 1 << 20
MOST_FILES = 1000
MOST_FILE_BYTES = 16 << 30
MOST_VERSION = 2**53
TIME = "%Y-%m-%dT%H:%M:%SZ"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}){0,3}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and SHA-256 of one file."""

    size_bytes: int
    sha256: str


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """The machine that a bundle was proven on, as far as another must be like it.

    Attributes:
        arch: as ``uname -m`` tells it; ``system``: as ``uname -s`` does.
        runtime_version: full version of the engine's runtime; the device's must have the same first number.
        compute_capability: of the GPU ("8.7"), where the engine is built for one.
    """

    arch: str
    system: str
    engine: str
    precision: str
    runtime_version: str
    compute_capability: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's manifest.

    Attributes:
        name: of the model; a device keeps one line of releases for each name.
        version: grows with each release of ``name``; a device takes no older one.
        created: and ``expires``, UTC as ``2026-11-21T12:00:00Z``.
        versions: what made the bundle, by package.
        key: id of the key that signs it, None for an unsigned bundle.
        decoded: files that are not in the bundle but made of its packed one on the device; none in most bundles, whose
            manifest then does not name the key.
    """

    name: str
    version: int
    created: str
    target: Target
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    expires: str | None = None
    key: str | None = None
    decoded: Mapping[str, FileEntry] = field(default_factory=dict)

    def canonical(self) -> bytes:
        """Return the bytes of ``manifest.json``, which are signed."""
        data = {"schema": SCHEMA, **asdict(self)}
        return canonical(data if self.decoded else without(data, DECODED))


def canonical(data: Mapping[str, Any]) -> bytes:
    """Encode ``data`` as JSON in its one form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return (text + "\n").encode()


def read(folder: Path) -> tuple[Manifest, bytes, bytes | None]:
    """Read the manifest of a bundle; return it, its bytes, and the bytes of its signature if it has one.

    Raises:
        UserError: there is none, or it is not a manifest.
    """
    path, signature = folder / MANIFEST, folder / SIGNATURE
    if not path.is_file():
        fact = "this is no bundle" if folder.is_dir() else "no such folder"
        inside = f"; its bundle is {folder / 'bundle'}" if (folder / "bundle" / MANIFEST).is_file() else ""
        raise UserError(f"{folder}: no {MANIFEST}; {fact}{inside}")
    with path.open("rb") as file:
        raw = file.read(MOST_MANIFEST_BYTES + 1)
    return parse(raw, str(folder)), raw, signature.read_bytes()[:4096] if signature.is_file() else None


def parse(raw: bytes, where: str) -> Manifest:
    """Parse the manifest in ``raw``; ``where`` begins each fault.

    Raises:
        UserError: it is too long, not canonical, of another schema, or says what no manifest may; all faults at once.
    """
    if len(raw) > MOST_MANIFEST_BYTES:
        raise UserError(f"{where}: {MANIFEST} is longer than {MOST_MANIFEST_BYTES} bytes")
    try:
        data = json.loads(raw)
        is_canonical = isinstance(data, dict) and canonical(data) == raw
    except (ValueError, RecursionError):
        raise UserError(f"{where}: {MANIFEST} is not JSON; the bundle was altered") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(
            f"{where}: {MANIFEST} has schema {one_line(repr(schema), 80)}; this version reads {SCHEMA}: make it again"
        )
    if not is_canonical:
        raise UserError(f"{where}: {MANIFEST} is not in canonical form; the bundle was altered")
    faults = [one_line(f"{where}: {MANIFEST}: {fault}") for fault in _faults(data)]
    if faults:
        raise UserError(*faults)
    tables = {key: _entries(data[key]) for key in ("files", DECODED) if key in data}
    return Manifest(**{**without(data, "schema"), "target": Target(**data["target"]), **tables})


def without(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return ``data`` less one key."""
    return {name: value for name, value in data.items() if name != key}


def moment(text: str) -> datetime:
    """Parse a manifest's time."""
    return datetime.strptime(text, TIME).replace(tzinfo=timezone.utc)


def as_text(when: datetime) -> str:
    """Format ``when`` as a manifest writes it."""
    return when.astimezone(timezone.utc).strftime(TIME)


def is_name(name: object) -> bool:
    """Return whether ``name`` may be the name of a model, which is a folder on devices."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and name_fault(name) is None


def is_path(path: object) -> bool:
    """Return whether ``path`` may be the path of a file of a bundle."""
    return isinstance(path, str) and PATH.fullmatch(path) is not None and name_fault(path) is None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file below ``folder`` with the manifest.

    Raises:
        UserError: a file is missing, altered, a link or special, or not in the manifest; all at once.
    """
    present, faults = _walk(folder)
    listed = manifest.files
    faults += [f"{folder}: {name} is missing" for name in sorted(set(listed) - set(present))]
    faults += [f"{folder}: {name} is not in the manifest" for name in sorted(set(present) - set(listed))]
    for name in sorted(set(present) & set(listed)):
        if present[name] != listed[name].size_bytes or sha256(folder / name) != listed[name].sha256:
            faults.append(f"{folder}: {name} was altered")
    if faults:
        raise UserError(*faults)


def unlisted(folder: Path) -> list[str]:
    """List the files of a bundle's folder that are not of its bundle: all where it has no manifest that can be read."""
    if not folder.is_dir():
        return [folder.name] if folder.exists() or folder.is_symlink() else []
    try:
        own = {*read(folder)[0].files, MANIFEST, SIGNATURE}
    except (UserError, OSError):
        own = set()
    present = (Path(parent, name) for parent, folders, names in os.walk(folder) for name in names)
    return sorted({path.relative_to(folder).as_posix() for path in present} - own)


def entries(folder: Path) -> dict[str, FileEntry]:
    """Return the entry of each file below ``folder``, without its manifest and signature.

    Raises:
        UserError: there is a link, a special file or a name that a bundle cannot have.
    """
    present, faults = _walk(folder)
    faults += [f"{folder}: {name!r} is no name for a file of a bundle" for name in present if not is_path(name)]
    if faults:
        raise UserError(*faults)
    return {name: FileEntry(size_bytes=size, sha256=sha256(folder / name)) for name, size in sorted(present.items())}


def _walk(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return sizes of the plain files below ``folder`` by path, and faults for everything else. Links are not followed."""
    sizes: dict[str, int] = {}
    faults: list[str] = []
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            relative, status = path.relative_to(folder).as_posix(), path.lstat()
            if stat.S_ISREG(status.st_mode):
                if relative not in (MANIFEST, SIGNATURE):
                    sizes[relative] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                faults.append(f"{folder}: {relative} is a link or a special file; a bundle holds plain files")
    return sizes, faults


def _faults(data: Mapping[str, Any]) -> list[str]:
    wanted = {"schema", "name", "version", "created", "expires", "target", "files", "versions", "key"}
    if set(data) - {DECODED} != wanted:
        return [f"it has the keys {', '.join(sorted(data))}; a manifest has {', '.join(sorted(wanted))}"]
    faults: list[str] = []
    if not is_name(data["name"]):
        faults.append(f"name {data['name']!r}: letters, digits, '.', '_' and '-' only, at most 64")
    if not (is_count(data["version"]) and 0 < data["version"] <= MOST_VERSION):
        faults.append(f"version {data['version']!r} is not a positive integer")
    faults += [f"{key} {data[key]!r} is not a time such as 2026-11-21T12:00:00Z" for key in _bad_times(data)]
    if not (data["key"] is None or (isinstance(data["key"], str) and re.fullmatch(r"[0-9a-f]{16}", data["key"]))):
        faults.append(f"key {data['key']!r} is not the id of a key")
    if not _is_texts(data["versions"]):
        faults.append("versions is not a table of texts")
    faults += _target_faults(data["target"]) + _file_faults(data["files"])
    if DECODED in data:
        faults += _file_faults(data[DECODED], DECODED)
        twice = set(data["files"]) & set(data[DECODED]) if not faults else set()
        faults += [f"file {path!r}: it is in the bundle and decoded too" for path in sorted(twice)]
    return faults


def _entries(table: Mapping[str, Any]) -> dict[str, FileEntry]:
    return {path: FileEntry(**entry) for path, entry in table.items()}


def _bad_times(data: Mapping[str, Any]) -> list[str]:
    bad = []
    for key in ("created", "expires"):
        try:
            if not (key == "expires" and data[key] is None) and as_text(moment(data[key])) != data[key]:
                bad.append(key)
        except (TypeError, ValueError):
            bad.append(key)
    return bad


def _target_faults(target: Any) -> list[str]:
    fields = set(Target.__dataclass_fields__)
    if not isinstance(target, dict) or set(target) != fields:
        return [f"target is not a table of {', '.join(sorted(fields))}"]
    texts = {key: value for key, value in target.items() if key != "compute_capability" or value is not None}
    return [] if _is_texts(texts) else ["target holds something that is no text"]


def _file_faults(files: Any, table: str = "files") -> list[str]:
    if not isinstance(files, dict) or not 0 < len(files) <= MOST_FILES:
        return [f"{table} is not a table of 1 to {MOST_FILES} files"]
    faults = [f"file {path!r}: no such path may be in a bundle" for path in files if not _is_path(path)]
    for path, entry in files.items():
        if not isinstance(entry, dict) or set(entry) != {"size_bytes", "sha256"}:
            faults.append(f"file {path!r}: needs size_bytes and sha256, and nothing else")
        elif not (is_count(entry["size_bytes"]) and entry["size_bytes"] <= MOST_FILE_BYTES):
            faults.append(f"file {path!r}: size_bytes {entry['size_bytes']!r} is not within 0 to {MOST_FILE_BYTES}")
        elif not (isinstance(entry["sha256"], str) and DIGEST.fullmatch(entry["sha256"])):
            faults.append(f"file {path!r}: sha256 {entry['sha256']!r} is not 64 hexadecimal digits")
    return faults


def _is_path(path: str) -> bool:
    return is_path(path) and path not in (MANIFEST, SIGNATURE)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
