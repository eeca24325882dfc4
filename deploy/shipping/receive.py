"""The first half of a ship, on the device: refuse inadmissible bundles, list the missing contents, receive them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from deploy.bundle import manifest as manifests
from deploy.bundle import signing, target
from deploy.bundle.manifest import DIGEST, MOST_FILE_BYTES, FileEntry, Manifest
from deploy.files import CHUNK_BYTES, remove_below, sha256, sync
from deploy.shipping.releases import PART, Store, TryAgainError, take_lock
from profiles.errors import UserError

RESERVE_BYTES = 8 << 20
"""Left free on the device whatever is shipped."""
CLOCK_SLACK_S = 24 * 3600
TRUST = ("first", "add", "never")


def digest_of(raw: bytes) -> str:
    """Return the identity of a bundle: SHA-256 of its manifest's bytes."""
    return hashlib.sha256(raw).hexdigest()


def admit(
    store: Store, raw: bytes, signature: bytes | None, *, going_back: bool = False, new_key: bytes | None = None
) -> Manifest:
    """Return the manifest in ``raw``, if a bundle with it may be installed here.

    ``new_key``, a public key, is taken for a trusted one. A way back (``going_back``) may be older and past its
    expiry; who signed it and what it is for are checked as ever.

    Raises:
        UserError: it is malformed, unsigned, altered, signed by a key not trusted here, for another device, older than
            what was here, or expired. What follows the signature is told all at once.
    """
    admitted = manifests.parse(raw, "the bundle")
    new = {} if new_key is None else {signing.key_id(new_key): new_key}
    signing.check(admitted, raw, signature, {**store.keys(), **new})
    faults = target.mismatches(admitted.target)
    if not going_back:
        faults += _version_faults(store, admitted, digest_of(raw)) + _expiry_faults(admitted, datetime.now(timezone.utc))
    if faults:
        raise UserError(*[f"bundle {admitted.name} {admitted.version}: {fault}" for fault in faults])
    return admitted


def offer(store: Store, raw: bytes, signature: bytes | None, *, public_key: str | None, trust: str) -> dict[str, Any]:
    """Judge a bundle by its manifest; return the missing contents, and from which byte on.

    Args:
        public_key: of the bundle's signer, in PEM. It is trusted from now on if ``trust`` is ``"add"``, or if it is
            ``"first"`` and no key is trusted yet; never if ``trust`` is ``"never"``.

    Raises:
        UserError: as ``admit``; or there is not enough space.
    """
    store.prepare()
    new_key = _new_key(store, raw, signature, public_key, trust)
    admitted = admit(store, raw, signature, new_key=new_key)
    missing = _missing(store, admitted)
    _check_space(store, admitted, sum(m["size_bytes"] - m["have_bytes"] for m in missing))
    trusted = None if new_key is None else store.trust(new_key)  # not before the bundle was admitted
    return {"missing": missing, "trusted": trusted, "was": _served_version(store, admitted.name)}


def _served_version(store: Store, name: str) -> int | None:
    """Return the version that is served; None where there is none, or its manifest is damaged."""
    current = store.slot(name).current()
    try:
        return current.manifest().version if current else None
    except (UserError, OSError):
        return None


def receive(store: Store, pieces: list[Mapping[str, Any]], stream: IO[bytes]) -> dict[str, Any]:
    """Append pieces of files, which follow one another in ``stream``; whole files are checked and kept.

    Each piece tells ``sha256`` and ``size_bytes`` of its file, and ``offset`` and ``length`` of the piece.

    Raises:
        UserError: a piece that no file can have.
        TryAgainError: it does not continue what is here, it ended early, its file arrived altered (and was dropped), or
            another ship is sending the same file.
    """
    store.prepare()
    taken = 0
    for piece in pieces:
        taken += _receive_piece(store, piece, stream)
    return {"received_bytes": taken}


def clean_incoming(store: Store, older_than_s: float = 0.0) -> None:
    """Remove received contents that were not installed."""
    for path in store.incoming.glob("*"):
        if DIGEST.fullmatch(path.name.removesuffix(PART)) and time.time() - path.lstat().st_mtime >= older_than_s:
            remove_below(store.incoming, path)


def _receive_piece(store: Store, piece: Mapping[str, Any], stream: IO[bytes]) -> int:
    digest, size = str(piece["sha256"]), int(piece["size_bytes"])
    offset, length = int(piece["offset"]), int(piece["length"])
    if not DIGEST.fullmatch(digest) or not 0 <= offset <= offset + length <= size <= MOST_FILE_BYTES:
        raise UserError(f"a piece of {length} bytes at {offset} of a file of {size} bytes named {digest!r} is not possible")
    part = store.incoming / (digest + PART)
    with part.open("ab") as file:
        if not take_lock(file.fileno()) or not _is_at(file.fileno(), part):
            raise TryAgainError(f"another ship is sending {digest[:12]}")
        if os.fstat(file.fileno()).st_size != offset:
            raise TryAgainError(f"a piece of {digest[:12]} from byte {offset} on does not continue what is here")
        taken = _copy(stream, file, length)
        file.flush()
        os.fsync(file.fileno())
        if offset + taken == size:
            _finish_file(part, digest)
    if taken < length:
        raise TryAgainError(f"the connection ended after {taken} of {length} bytes")
    return taken


def _is_at(handle: int, path: Path) -> bool:
    """Return whether the open file is still the one at ``path``: the lock's last holder may have renamed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _copy(stream: IO[bytes], file: IO[bytes], length: int) -> int:
    left = length
    while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
        file.write(chunk)
        left -= len(chunk)
    return length - left


def _finish_file(part: Path, digest: str) -> None:
    if sha256(part) != digest:
        part.unlink()
        raise TryAgainError(f"{digest[:12]} arrived altered and was dropped")
    os.replace(part, part.with_name(digest))
    sync(part.parent)


def _missing(store: Store, contents: Manifest) -> list[dict[str, Any]]:
    """Return the missing contents: digest, size, and bytes received already."""
    wanted = {entry.sha256: entry for entry in contents.files.values()}
    held = store.held(set(wanted))
    return [_progress(store, entry) for digest, entry in sorted(wanted.items()) if digest not in held]


def _progress(store: Store, entry: FileEntry) -> dict[str, Any]:
    part = store.incoming / (entry.sha256 + PART)
    have = part.stat().st_size if part.is_file() else 0
    if have >= entry.size_bytes:
        part.unlink(missing_ok=True)
        have = 0
    return {"sha256": entry.sha256, "size_bytes": entry.size_bytes, "have_bytes": have}


def _check_space(store: Store, contents: Manifest, coming_bytes: int) -> None:
    """Require room for an engine of twice the largest file (three times where it is decoded) and a reserve."""
    files = {**contents.files, **contents.decoded}
    largest = max((entry.size_bytes for entry in files.values()), default=0)
    times = 3 if contents.decoded else 2
    needed = coming_bytes + times * largest + RESERVE_BYTES
    free = store.free_bytes()
    if free < needed:
        raise UserError(
            f"{store.root}: {free / 2**20:.1f} MiB are free; bundle {contents.name} {contents.version} needs "
            f"{needed / 2**20:.1f} MiB: make room, or remove what came in before with `python -m deploy store clean`"
        )


def _new_key(store: Store, raw: bytes, signature: bytes | None, public_key: str | None, trust: str) -> bytes | None:
    """Return the signer's key if it is to be trusted (asked for, or nobody is trusted yet) and its signature matches."""
    if trust not in TRUST:
        raise UserError(f"trust {trust!r}; known: {', '.join(TRUST)}")
    known = store.keys()
    if public_key is None or trust == "never" or (trust == "first" and known):
        return None
    public = signing.from_pem(public_key, "the signer's key")
    if signing.key_id(public) in known:
        return None
    signing.check(manifests.parse(raw, "the bundle"), raw, signature, {signing.key_id(public): public})
    return public


def _version_faults(store: Store, contents: Manifest, digest: str) -> list[str]:
    history = store.slot(contents.name).history()
    if contents.version < history.highest:
        return [f"version {history.highest} was here already, and no older one is taken; `compress rollback` goes back"]
    if contents.version == history.highest and digest != history.digest:
        return ["another bundle with this version was here already; give each release a version of its own"]
    return []


def _expiry_faults(contents: Manifest, now: datetime) -> list[str]:
    if contents.expires is None:
        return []
    if now.timestamp() < manifests.moment(contents.created).timestamp() - CLOCK_SLACK_S:
        clock = manifests.as_text(now)
        return [f"the device's clock says {clock}, before it was made: set the clock, its expiry cannot be judged"]
    if now >= manifests.moment(contents.expires):
        return [f"it expired at {contents.expires}"]
    return []
