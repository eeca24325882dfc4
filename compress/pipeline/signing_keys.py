"""Keys that sign bundles: Ed25519, one pair of PEM files a name, in ``$EDGE_KEYS`` or ``~/.config/edge-compress/keys``.

The private half never leaves that folder and is readable by its owner alone; devices get the public half.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.bundle import signing
from deploy.bundle.bundle import Signer
from profiles.errors import UserError, one_line, unknown

DEFAULT = "default"
PRIVATE, PUBLIC = ".key", ".pub"
MOST_PRIVATE_BYTES = 1 << 16


@final
@dataclass(frozen=True, kw_only=True)
class Key:
    """Pair of keys on this machine."""

    name: str
    id: str
    pem: str


def folder() -> Path:
    """Return the folder of the keys."""
    return Path(os.environ.get("EDGE_KEYS") or Path.home() / ".config" / "edge-compress" / "keys")


def new(name: str) -> Key:
    """Make a pair of keys.

    Raises:
        UserError: the name is taken, or can be no file's.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"key {name!r}: letters, digits, '-' and '_' only")
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Ed25519PrivateKey.generate()
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = signing.to_pem(private.public_key().public_bytes_raw())
    try:
        handle = os.open(place / (name + PRIVATE), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UserError(f"key {name!r} exists already in {place}; a key is never overwritten: give another name") from None
    with os.fdopen(handle, "wb") as file:
        file.write(plain)
    (place / (name + PUBLIC)).write_text(pem)
    return find(name)


def all_keys() -> list[Key]:
    """List the keys on this machine, by name."""
    return [find(path.stem) for path in sorted(folder().glob(f"*{PUBLIC}"))]


def find(name: str) -> Key:
    """Find the key ``name``.

    Raises:
        UserError: there is none.
    """
    path = folder() / (name + PUBLIC)
    if not path.is_file():
        known = [p.stem for p in folder().glob(f"*{PUBLIC}")]
        raise UserError(unknown("key", name, known or ["none; make one with `compress keys new`"], str(folder())))
    public = signing.read_pem(path)
    return Key(name=name, id=signing.key_id(public), pem=signing.to_pem(public))


def default() -> Key | None:
    """Choose the key that signs unless another is named: ``$EDGE_KEY``, ``default``, or the only one; None without any.

    Raises:
        UserError: there are several and none of them is the default.
    """
    if "EDGE_KEY" in os.environ:
        return find(os.environ["EDGE_KEY"])
    keys = all_keys()
    named = [key for key in keys if key.name == DEFAULT] or keys
    if len(named) > 1:
        names = ", ".join(key.name for key in named)
        raise UserError(f"{folder()}: several keys, none of them {DEFAULT!r}; say which with --key or $EDGE_KEY: {names}")
    return named[0] if named else None


def by_id(key: str) -> Key | None:
    """Find the key with that id; None if it is not on this machine."""
    return next((pair for pair in all_keys() if pair.id == key), None)


def signer(key: Key) -> Signer:
    """Make a signer of ``key``.

    Raises:
        UserError: its private half is not here, open to others, or no Ed25519 key.
    """
    private = _private(folder() / (key.name + PRIVATE))
    return Signer(key=key.id, sign=lambda message: bytes(private.sign(message)))


def _private(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.is_file():
        raise UserError(f"{path}: no such private key; only its public half is here")
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path}: others may read this private key (mode {path.stat().st_mode & 0o777:o}); chmod 600 it")
    with path.open("rb") as file:
        content = file.read(MOST_PRIVATE_BYTES)
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except Exception as error:  # of a damaged key anything may come: ValueError, TypeError, UnsupportedAlgorithm
        raise UserError(f"{path}: not a private key without passphrase ({one_line(str(error), 200)})") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{path}: not an Ed25519 key; `compress keys new` makes one")
    return private
