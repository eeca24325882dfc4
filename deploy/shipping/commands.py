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
    """Run ``store offer | receive | install | rollback | status | trust | distrust | clean [--root DIR]``."""
    parser = argparse.ArgumentParser(prog="python -m deploy store")
    parser.add_argument("act", choices=sorted(ACTS))
    parser.add_argument("--root", type=Path, default=default_root())
    options = parser.parse_args(arguments)
    with _real_stdout() as output:
        releases = Store(options.root)
        code, response = _run_act(ACTS[options.act], releases, sys.stdin.buffer)
        output.write(json.dumps(response) + "\n")
    return code


def verify(arguments: list[str]) -> int:
    """Run ``verify BUNDLE [--key PEM] [--unsigned] [--root DIR]``: signature, files, target, expiry, golden samples."""
    parser = argparse.ArgumentParser(prog="python -m deploy verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path, action="append", help="a public key to check by; default: the trusted ones")
    parser.add_argument("--unsigned", action="store_true", help="do not ask who signed it")
    parser.add_argument("--root", type=Path, default=default_root())
    options = parser.parse_args(arguments)
    return _print_lines(lambda: _verify(options.bundle, options.key, options.unsigned, Store(options.root)))


def serve_check(arguments: list[str]) -> int:
    """Run ``serve-check [--name MODEL] [--root DIR]``: whether the current release opens and gives its golden outputs."""
    parser = argparse.ArgumentParser(prog="python -m deploy serve-check")
    parser.add_argument("--name", help="of the model; default: all")
    parser.add_argument("--root", type=Path, default=default_root())
    options = parser.parse_args(arguments)
    return _print_lines(lambda: [_served_line(served) for served in install.serve_check(Store(options.root), options.name)])


def _offer(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream)
    raw, signature = _signed_manifest(request)
    return receive.offer(
        place, raw, signature, public_key=request.get("public_key"), trust=str(request.get("trust", "never"))
    )


def _receive(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return receive.receive(place, _read_request(stream)["pieces"], stream)


def _install(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream)
    return install.install(place, *_signed_manifest(request), _read_expectation(request))


def _rollback(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream)
    return install.roll_back(place, request.get("name"), _read_expectation(request))


def _status(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return install.status(place)


def _trust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return {"trusted": place.trust(signing.from_pem(str(_read_request(stream)["public_key"]), "the given key"))}


def _distrust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    place.distrust(str(_read_request(stream)["key"]))
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


def _run_act(
    act: Callable[[Store, IO[bytes]], dict[str, Any]], place: Store, stream: IO[bytes]
) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the response to one request; a bug keeps its traceback."""
    try:
        return 0, {"ok": act(place, stream)}
    except UserError as error:
        code, kind, reasons = REFUSED, "refused", list(error.faults)
    except TryAgainError as error:
        code, kind, reasons = AGAIN, "again", [str(error)]
    except (EngineError, install.ProofError, OSError) as error:
        code, kind, reasons = FAILED, "failed", [_one_line(error)]
    return code, {"error": kind, "reasons": reasons, "serving": _served_versions(place)}


def _served_versions(place: Store) -> dict[str, Any]:
    """Return the served version of each model."""
    models = install.status(place)["models"]
    return {model["name"]: model["version"] for model in models}


def _read_request(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(MOST_REQUEST_BYTES)
    try:
        request = json.loads(line)
    except ValueError:
        raise TryAgainError("the request did not come whole") from None
    if not isinstance(request, dict):
        raise UserError("a request is a JSON object")
    return request


def _signed_manifest(request: dict[str, Any]) -> tuple[bytes, bytes | None]:
    signature = request.get("signature")
    return str(request["manifest"]).encode(), None if signature is None else base64.b64decode(signature)


def _read_expectation(request: dict[str, Any]) -> install.Expectation:
    names = {field.name for field in fields(install.Expectation)}
    return install.Expectation(**{name: value for name, value in request.items() if name in names})


def _verify(folder: Path, keys: list[Path] | None, unsigned: bool, place: Store) -> list[str]:
    contents, raw, signature = manifest.read(folder)
    if not unsigned:
        public_keys = {p: signing.from_pem(p.read_text(errors="replace"), str(p)) for p in keys or []}
        keys_by_id = {signing.key_id(key): key for key in public_keys.values()} if keys else place.keys()
        signing.check(contents, raw, signature, keys_by_id)
    faults = target.mismatches(contents.target)
    if faults:
        raise UserError(*[f"{folder}: {fault}" for fault in faults])
    check = bundle.verify(folder)
    wrong = golden.faults(check, contents.target.precision)
    if wrong:
        raise install.ProofError("; ".join(wrong))
    signed = "signature not asked for" if unsigned else f"signed by {contents.key}"
    return [f"ok: {contents.name} {contents.version}, {signed}; {_samples(check.as_json())}"]


def _served_line(served: dict[str, Any]) -> str:
    form = f"{served['engine']} {served['precision']}"
    return f"ok: {served['name']} {served['version']}, {form}; {_samples(served['golden'])}, p50 {served['p50_ms']:.3f} ms"


def _samples(check: dict[str, Any]) -> str:
    return f"{check['samples']} golden samples agree (cosine {check['cosine']:.6f})"


def _print_lines(act: Callable[[], list[str]]) -> int:
    """Print the lines of ``act``, or the reasons of its failure, one a line; return the exit code."""
    with _real_stdout() as output:
        try:
            output.write("\n".join(act()) + "\n")
        except UserError as error:
            output.write("".join(f"refused: {fault}\n" for fault in error.faults))
            return REFUSED
        except (EngineError, install.ProofError, OSError, ValueError) as error:
            output.write(f"failed: {_one_line(error)}\n")
            return FAILED
    return 0


@contextmanager
def _real_stdout() -> Iterator[IO[str]]:
    """Yield the real standard output; runtimes, which print there as they like, get standard error meanwhile."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w") as output:
            yield output
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
