"""Weights at an address: fetched whole or not at all, kept by content, over https or with a SHA-256 to hold them to."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, final

import torch.hub

from compress.models.hub.fetch import Say
from compress.models.hub.records import Pin, PinnedFile
from deploy.files import CHUNK_BYTES, name_fault, sha256, sync
from profiles.errors import UserError, one_line

TIMEOUT_S = 20.0
"""Without a byte for so long, a transfer has failed."""
ATTEMPTS = 3
PAUSE_S = 1.0
MOST_BYTES = 64 * 2**30
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def fetch_address(url: str, folder: Path, say: Say, *, expected: str = "", prefix: str = "", model: str = "") -> Path:
    """Return the file at an address, from ``folder`` where it has been fetched before.

    Args:
        expected: the SHA-256 that it must have; empty where none is known.
        prefix: what its SHA-256 must begin with, as names of torch's files say.
        model: the name in the recipe, for errors; without one, the address.

    Raises:
        UserError: plain http without a hash, no way there, a broken transfer, or other bytes.
    """
    named = model or f"weights {url}"
    target = folder / file_name(url)
    _check_scheme(url, named, expected)
    if not target.is_file():
        say(f"  {named}: fetching {target.name}")
        folder.mkdir(parents=True, exist_ok=True)
        _download(url, target, named, expected or prefix)
        return target
    digest = sha256(target)
    if not digest.startswith(expected or prefix):
        fact = f"{named}: {target} has the SHA-256 {digest[:12]}; wanted is {(expected or prefix)[:12]}"
        raise UserError(f"{fact}; delete it to fetch it again")
    return target


def fetch_published(url: str, model: str, revision: str, held: Pin | None, say: Say) -> tuple[Path, Pin]:
    """Fetch a file of a library's own site to where torch keeps such, and hold it to the hash in its name.

    Raises:
        UserError: as ``fetch_address``.
    """
    expected = held.files[0].sha256 if held is not None and held.files else ""
    hashed = torch.hub.HASH_REGEX.search(file_name(url))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = fetch_address(url, folder, say, expected=expected, prefix=hashed.group(1) if hashed else "", model=model)
    return path, replace(pin_address(url, path, revision), model=model)


def address_folder(url: str) -> Path:
    """Return the folder that the file at an address is kept in."""
    home = os.environ.get("XDG_CACHE_HOME")
    cache = Path(home) if home else Path.home() / ".cache"
    return cache / "edge-compress" / "weights" / hashlib.sha256(url.encode()).hexdigest()[:16]


def file_name(url: str) -> str:
    """Return a name for the file at an address; ``weights`` where the address has none that may be used here."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    return "weights" if name_fault(name) or name.startswith(".") else name


def pin_address(url: str, path: Path, asked: str = "") -> Pin:
    """Return an address's entry of a lock."""
    file = PinnedFile(name=path.name, sha256=sha256(path), size_bytes=path.stat().st_size)
    return Pin(model=url, asked=asked, source=url, files=(file,))


def _check_scheme(url: str, named: str, expected: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and not expected and parts.hostname not in LOOPBACK:
        raise UserError(f"{named}: over plain http anybody on the way can change them; write https, or sha256 beside it")


def _download(url: str, target: Path, named: str, wanted: str) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        for attempt in range(ATTEMPTS):
            try:
                digest = _transfer(url, part)
                break
            except urllib.error.HTTPError as error:
                raise UserError(f"{named}: the server answers {error.code} {error.reason}; is the address right?") from None
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                if attempt == ATTEMPTS - 1 or isinstance(cause, ssl.SSLCertVerificationError):
                    words = one_line(str(cause) or type(cause).__name__, 160)
                    remedy = "download it by hand and give its path as weights"
                    raise UserError(f"{named}: it did not arrive ({words}); run again, or {remedy}") from error
                time.sleep(PAUSE_S)
        if not digest.startswith(wanted):
            fact = f"{named}: what came has the SHA-256 {digest}, and {wanted[:12]} is wanted"
            raise UserError(f"{fact}; it was changed there or on the way, and nothing was kept")
        sync(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _transfer(url: str, part: Path) -> str:
    """Write what is at an address into ``part``; return its SHA-256. ``OSError`` where less comes than was announced."""
    request = urllib.request.Request(url, headers={"User-Agent": "edge-compress"})
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(request, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
        announced = answer.headers.get("Content-Length", "")
        most = int(announced) if announced.isdecimal() else MOST_BYTES
        digest, size = _copied(answer, file, most)
    if announced and size != most:
        raise OSError(f"{size:,} of {most:,} bytes came")
    return digest


def _copied(answer: IO[bytes], file: IO[bytes], most: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := answer.read(CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            raise OSError(f"more than {most:,} bytes came")
        digest.update(chunk)
        file.write(chunk)
    return digest.hexdigest(), size


@final
class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https://") and not newurl.startswith("https://"):
            raise urllib.error.HTTPError(
                newurl, code, "a redirect from https to plain http, which is not followed", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
