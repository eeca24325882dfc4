"""The commands of ``python -m deploy`` about bundles: ``store ...``, ``verify`` and ``serve-check``.

``store`` is spoken by programs: a request of one JSON line on standard input (after it, for ``receive``, the bytes),
one JSON line as answer on standard output: ``{"ok": {...}}``, or ``{"error": KIND, "reasons": [...], "serving": {...}}``
with KIND ``refused`` (exit code 2), ``again`` (75: the same request may succeed later) or ``failed`` (1).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from deploy.bundle import bundle, golden, manifest, signing, target
from deploy.engines import EngineError
from deploy.shipping import install, receive
from deploy.shipping.releases import Store, TryAgainError, default_root
from profiles.errors import UserError

REFUSED, FAILED, AGAIN = 2, 1, 75
MOST_REQUEST_BYTES = 4 << 20


def store(arguments: list[str]) -> int:
    """``store offer | receive | install | rollback | status | trust | distrust | clean [--root DIR]``."""
    parser = argparse.ArgumentParser(prog="python -m deploy store")
    parser.add_argument("act", choices=sorted(ACTS))
    parser.add_argument("--root", type=Path, default=default_root())
    given = parser.parse_args(arguments)
    with _answers() as answer:
        place = Store(given.root)
        code, told = _acted(ACTS[given.act], place, sys.stdin.buffer)
        answer.write(json.dumps(told) + "\n")
    return code


def verify(arguments: list[str]) -> int:
    """``verify BUNDLE [--key PEM] [--unsigned] [--root DIR]``: signature, files, target, expiry, golden samples."""
    parser = argparse.ArgumentParser(prog="python -m deploy verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path, action="append", help="a public key to check by; default: the trusted ones")
    parser.add_argument("--unsigned", action="store_true", help="do not ask who signed it")
    parser.add_argument("--root", type=Path, default=default_root())
    given = parser.parse_args(arguments)
    return _told(lambda: _verified(given.bundle, given.key, given.unsigned, Store(given.root)))


def serve_check(arguments: list[str]) -> int:
    """``serve-check [--name MODEL] [--root DIR]``: whether what is current opens and gives its golden outputs."""
    parser = argparse.ArgumentParser(prog="python -m deploy serve-check")
    parser.add_argument("--name", help="of the model; default: all")
    parser.add_argument("--root", type=Path, default=default_root())
    given = parser.parse_args(arguments)
    return _told(lambda: [_line(served) for served in install.serve_check(Store(given.root), given.name)])


def _offer(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    asked = _request(stream)
    raw, signature = _signed(asked)
    return receive.offer(place, raw, signature, public_key=asked.get("public_key"), trust=str(asked.get("trust", "never")))


def _receive(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return receive.receive(place, _request(stream)["pieces"], stream)


def _install(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    asked = _request(stream)
    return install.install(place, *_signed(asked), _expectation(asked))


def _rollback(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    asked = _request(stream)
    return install.roll_back(place, asked.get("name"), _expectation(asked))


def _status(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return install.status(place)


def _trust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return {"trusted": place.trust(signing.from_pem(str(_request(stream)["public_key"]), "the given key"))}


def _distrust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    place.distrust(str(_request(stream)["key"]))
    return {"trusted": sorted(place.keys())}


def _clean(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    with place.locked():
        receive.clean_incoming(place)
    return {"free_bytes": place.free_bytes()}


ACTS: dict[str, Callable[[Store, IO[bytes]], dict[str, Any]]] = {
    "offer": _offer,
    "receive": _receive,
    "install": _install,
    "rollback": _rollback,
    "status": _status,
    "trust": _trust,
    "distrust": _distrust,
    "clean": _clean,
}


def _acted(act: Callable[[Store, IO[bytes]], dict[str, Any]], place: Store, stream: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """The exit code and the answer to one request; a bug keeps its traceback."""
    try:
        return 0, {"ok": act(place, stream)}
    except UserError as error:
        code, kind, reasons = REFUSED, "refused", list(error.faults)
    except TryAgainError as error:
        code, kind, reasons = AGAIN, "again", [str(error)]
    except (EngineError, install.ProofError, OSError) as error:
        code, kind, reasons = FAILED, "failed", [_one_line(error)]
    return code, {"error": kind, "reasons": reasons, "serving": _serving(place)}


def _serving(place: Store) -> dict[str, Any]:
    """What is still served, by model."""
    told = install.status(place)["models"]
    return {model["name"]: model["version"] for model in told}


def _request(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(MOST_REQUEST_BYTES)
    try:
        asked = json.loads(line)
    except ValueError:
        raise TryAgainError("the request did not come whole") from None
    if not isinstance(asked, dict):
        raise UserError("a request is a JSON object")
    return asked


def _signed(asked: dict[str, Any]) -> tuple[bytes, bytes | None]:
    signature = asked.get("signature")
    return str(asked["manifest"]).encode(), None if signature is None else base64.b64decode(signature)


def _expectation(asked: dict[str, Any]) -> install.Expectation:
    names = {field.name for field in fields(install.Expectation)}
    return install.Expectation(**{name: value for name, value in asked.items() if name in names})


def _verified(folder: Path, keys: list[Path] | None, unsigned: bool, place: Store) -> list[str]:
    found, raw, signature = manifest.read(folder)
    if not unsigned:
        given = {p: signing.from_pem(p.read_text(errors="replace"), str(p)) for p in keys or []}
        by = {signing.key_id(key): key for key in given.values()} if keys else place.keys()
        signing.check(found, raw, signature, by)
    faults = target.mismatches(found.target)
    if faults:
        raise UserError(*[f"{folder}: {fault}" for fault in faults])
    check = bundle.verify(folder)
    wrong = golden.faults(check, found.target.precision)
    if wrong:
        raise install.ProofError("; ".join(wrong))
    signed = "signature not asked for" if unsigned else f"signed by {found.key}"
    return [f"ok: {found.name} {found.version}, {signed}; {_samples(check.as_json())}"]


def _line(served: dict[str, Any]) -> str:
    form = f"{served['engine']} {served['precision']}"
    return f"ok: {served['name']} {served['version']}, {form}; {_samples(served['golden'])}, p50 {served['p50_ms']:.3f} ms"


def _samples(check: dict[str, Any]) -> str:
    return f"{check['samples']} golden samples agree (cosine {check['cosine']:.6f})"


def _told(act: Callable[[], list[str]]) -> int:
    """Print what ``act`` returns, or why not, one line each; returns the exit code."""
    with _answers() as answer:
        try:
            answer.write("\n".join(act()) + "\n")
        except UserError as error:
            answer.write("".join(f"refused: {fault}\n" for fault in error.faults))
            return REFUSED
        except (EngineError, install.ProofError, OSError, ValueError) as error:
            answer.write(f"failed: {_one_line(error)}\n")
            return FAILED
    return 0


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """The real standard output; runtimes, which print there as they like, get standard error meanwhile."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w") as answers:
            yield answers
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
