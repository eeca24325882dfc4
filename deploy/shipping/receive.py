"""The first half of a ship, on the device: refuse what must not come in, tell what is missing, take it in."""

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
from deploy.files import CHUNK_BYTES, sha256, sync
from deploy.shipping.releases import PART, Store, TryAgainError, take_lock
from profiles.errors import UserError

RESERVE_BYTES = 8 << 20
"""Left free on the device whatever is shipped."""
CLOCK_SLACK_S = 24 * 3600
TRUST = ("first", "add", "never")


def digest_of(raw: bytes) -> str:
    """The identity of a bundle: SHA-256 of its manifest's bytes."""
    return hashlib.sha256(raw).hexdigest()


def admit(store: Store, raw: bytes, signature: bytes | None, *, going_back: bool = False) -> Manifest:
    """The manifest in ``raw``, if a bundle with it may be installed here.

    A way back (``going_back``) may be older and past its expiry; who signed it and what it is for are checked as ever.

    Raises:
        UserError: it is malformed, unsigned, altered, signed by a key not trusted here, for another device, older than
            what was here, or expired. What follows the signature is told all at once.
    """
    found = manifests.parse(raw, "the bundle")
    signing.check(found, raw, signature, store.keys())
    faults = target.mismatches(found.target)
    if not going_back:
        faults += _older(store, found, digest_of(raw)) + _expired(found, datetime.now(timezone.utc))
    if faults:
        raise UserError(*[f"bundle {found.name} {found.version}: {fault}" for fault in faults])
    return found


def offer(store: Store, raw: bytes, signature: bytes | None, *, public_key: str | None, trust: str) -> dict[str, Any]:
    """Judge a bundle by its manifest, and tell which contents are missing and from where on.

    Args:
        public_key: of the bundle's signer, in PEM. It is trusted from now on if ``trust`` is ``"add"``, or if it is
            ``"first"`` and no key is trusted yet; never if ``trust`` is ``"never"``.

    Raises:
        UserError: as ``admit``; or there is not enough space.
    """
    store.prepare()
    newly = _trust(store, raw, signature, public_key, trust)
    found = admit(store, raw, signature)
    current = store.slot(found.name).current()
    missing = _missing(store, found)
    _check_space(store, found, sum(m["size_bytes"] - m["have_bytes"] for m in missing))
    return {
        "missing": missing,
        "trusted": newly,
        "was": current.manifest().version if current and current.folder.is_dir() else None,
    }


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
        taken += _take(store, piece, stream)
    return {"received_bytes": taken}


def clean_incoming(store: Store, older_than_s: float = 0.0) -> None:
    """Remove what came in and was not installed."""
    for path in store.incoming.glob("*"):
        if time.time() - path.stat().st_mtime >= older_than_s:
            path.unlink(missing_ok=True)


def _take(store: Store, piece: Mapping[str, Any], stream: IO[bytes]) -> int:
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
            _keep(part, digest)
    if taken < length:
        raise TryAgainError(f"the connection ended after {taken} of {length} bytes")
    return taken


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``: whoever had the lock may have renamed it."""
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


def _keep(part: Path, digest: str) -> None:
    if sha256(part) != digest:
        part.unlink()
        raise TryAgainError(f"{digest[:12]} arrived altered and was dropped")
    os.replace(part, part.with_name(digest))
    sync(part.parent)


def _missing(store: Store, found: Manifest) -> list[dict[str, Any]]:
    """Contents that are not here: digest, size, and how many bytes of it came already."""
    wanted = {entry.sha256: entry for entry in found.files.values()}
    held = store.held(set(wanted))
    return [_state(store, entry) for digest, entry in sorted(wanted.items()) if digest not in held]


def _state(store: Store, entry: FileEntry) -> dict[str, Any]:
    part = store.incoming / (entry.sha256 + PART)
    have = part.stat().st_size if part.is_file() else 0
    if have >= entry.size_bytes:
        part.unlink(missing_ok=True)
        have = 0
    return {"sha256": entry.sha256, "size_bytes": entry.size_bytes, "have_bytes": have}


def _check_space(store: Store, found: Manifest, coming_bytes: int) -> None:
    """Refuse what leaves no room for an engine of twice the largest file (three times where it is decoded) and a reserve."""
    files = {**found.files, **found.decoded}
    largest = max((entry.size_bytes for entry in files.values()), default=0)
    times = 3 if found.decoded else 2
    needed = coming_bytes + times * largest + RESERVE_BYTES
    free = store.free_bytes()
    if free < needed:
        raise UserError(
            f"{store.root}: {free / 2**20:.1f} MiB are free; bundle {found.name} {found.version} needs "
            f"{needed / 2**20:.1f} MiB: make room, or remove what came in before with `python -m deploy store clean`"
        )


def _trust(store: Store, raw: bytes, signature: bytes | None, public_key: str | None, trust: str) -> str | None:
    """Trust the bundle's signer if asked to or if nobody is trusted yet, once the signature has been seen to match."""
    if trust not in TRUST:
        raise UserError(f"trust {trust!r}; known: {', '.join(TRUST)}")
    known = store.keys()
    if public_key is None or trust == "never" or (trust == "first" and known):
        return None
    public = signing.from_pem(public_key, "the signer's key")
    if signing.key_id(public) in known:
        return None
    signing.check(manifests.parse(raw, "the bundle"), raw, signature, {signing.key_id(public): public})
    return store.trust(public)


def _older(store: Store, found: Manifest, digest: str) -> list[str]:
    past = store.slot(found.name).history()
    if found.version < past.highest:
        return [f"version {past.highest} was here already, and no older one is taken; `compress rollback` goes back"]
    if found.version == past.highest and digest != past.digest:
        return ["another bundle with this version was here already; give each release a version of its own"]
    return []


def _expired(found: Manifest, now: datetime) -> list[str]:
    if found.expires is None:
        return []
    if now.timestamp() < manifests.moment(found.created).timestamp() - CLOCK_SLACK_S:
        clock = manifests.as_text(now)
        return [f"the device's clock says {clock}, before it was made: set the clock, its expiry cannot be judged"]
    if now >= manifests.moment(found.expires):
        return [f"it expired at {found.expires}"]
    return []
