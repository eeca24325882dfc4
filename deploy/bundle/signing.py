"""Ed25519 signatures over a bundle's manifest: public keys, and their check. Nothing here signs.

Checked by the ``cryptography`` library where it is installed, else by the system's OpenSSL (3.0 or later); a device
that has neither accepts nothing. Public keys are PEM files (``BEGIN PUBLIC KEY``), as OpenSSL reads and writes them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.bundle.manifest import Manifest
from profiles.errors import UserError

PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What comes before the 32 bytes of an Ed25519 key in its DER form (RFC 8410, section 4)."""
BEGIN, END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
MOST_PEM_CHARACTERS = 4096
KEY_BYTES, SIGNATURE_BYTES = 32, 64


def key_id(public: bytes) -> str:
    """Return the id of a public key of 32 bytes: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def to_pem(public: bytes) -> str:
    """Encode a public key of 32 bytes as PEM."""
    text = base64.b64encode(PREFIX + public).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


def from_pem(text: str, where: str) -> bytes:
    """Decode the 32 bytes of the public key in ``text``.

    Raises:
        UserError: it is no Ed25519 public key.
    """
    words = text.split() if len(text) <= MOST_PEM_CHARACTERS else []
    body = " ".join(words)
    encoded = body[len(BEGIN) : -len(END)] if body.startswith(BEGIN) and body.endswith(END) else ""
    try:
        raw = base64.b64decode(encoded.replace(" ", ""), validate=True)
    except ValueError:
        raw = b""
    if len(raw) != len(PREFIX) + KEY_BYTES or not raw.startswith(PREFIX):
        raise UserError(f"{where}: not an Ed25519 public key in PEM; `compress keys export` prints one")
    return raw[len(PREFIX) :]


def read_pem(path: Path) -> bytes:
    """Read the 32 bytes of the public key in a file, of which no more is read than a key has.

    Raises:
        UserError: it is no Ed25519 public key.
    """
    with path.open("rb") as file:
        content = file.read(MOST_PEM_CHARACTERS + 1)
    return from_pem(content.decode(errors="replace"), str(path))


def trusted(folder: Path) -> dict[str, bytes]:
    """Read the public keys in the PEM files of ``folder``, by id; a file's name means nothing."""
    keys = [read_pem(path) for path in sorted(folder.glob("*.pem"))]
    return {key_id(key): key for key in keys}


def check(manifest: Manifest, raw: bytes, signature: bytes | None, keys: Mapping[str, bytes]) -> None:
    """Check that one of ``keys`` signed ``raw``, the bytes of ``manifest``.

    Raises:
        UserError: it is unsigned, signed by another key, or altered since; or nothing here can check it.
    """
    bundle = f"bundle {manifest.name} {manifest.version}"
    if manifest.key is None or signature is None:
        raise UserError(f"{bundle} is not signed; sign it with `compress sign`")
    if manifest.key not in keys:
        known = ", ".join(sorted(keys)) or "none"
        fact = f"{bundle} is signed by key {manifest.key}, which is not trusted here; trusted: {known}"
        raise UserError(f"{fact}; `compress keys trust` has a device trust a key")
    if not is_signed(keys[manifest.key], raw, signature):
        raise UserError(f"{bundle}: its signature does not match; the bundle was altered")


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` (64 bytes) over ``message`` is of the key ``public`` (32 bytes).

    Raises:
        UserError: there is nothing here to check it with.
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return is_signed_by_openssl(public, message, signature)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def is_signed_by_openssl(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return the same as ``is_signed``, by the ``openssl`` command.

    Raises:
        UserError: there is no OpenSSL 3.0 or later.
    """
    tool = shutil.which("openssl")
    version = subprocess.run([tool, "version"], capture_output=True, text=True, check=False).stdout if tool else "none"
    release = re.match(r"OpenSSL (\d+)\.", version)
    if tool is None or release is None or int(release.group(1)) < 3:
        raise UserError(
            "no signature can be checked here: it takes Python's cryptography (pip install cryptography) "
            f"or OpenSSL 3.0 or later (found: {version.strip() or 'none'})"
        )
    with tempfile.TemporaryDirectory() as scratch:
        key, signed, content = (f"{scratch}/{name}" for name in ("key.pem", "signature", "message"))
        Path(key).write_text(to_pem(public))
        Path(signed).write_bytes(signature)
        Path(content).write_bytes(message)
        command = [tool, "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", content, "-sigfile", signed]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    return process.returncode == 0 and "Signature Verified Successfully" in process.stdout + process.stderr
