"""The commands of ``python -m deploy`` about bundles: ``store ...``, ``verify`` and ``serve-check``.

``store`` is spoken by programs: a request of one JSON line on standard input (after it, for ``receive``, the bytes),
one JSON line as answer on standard output: ``{"ok": {...}}``, or ``{"error": KIND, "reasons": [...], "serving": {...}}``
with KIND ``refused`` (exit code 2), ``again`` (75: the same request may succeed later) or ``failed`` (1).
"""

from __future__ import annotations

import argparse
import base64
import io
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
from deploy.files import FULL
from deploy.shipping import install, receive
from deploy.shipping.releases import Store, TryAgainError, default_root
from profiles.errors import UserError, one_line
from profiles.json_kinds import every, is_argument, is_count, is_number, optional, record

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


def answer(act: str, store: Store, request: bytes) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the response of ``store ACT`` to the bytes of a request."""
    return _run_act(ACTS[act], store, io.BytesIO(request))


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
    request = _read_request(
        stream, manifest=is_argument, signature=_is_base64, public_key=optional(is_argument), trust=is_argument
    )
    public_key, trust = request.get("public_key"), request.get("trust", "never")
    return receive.offer(place, *_signed_manifest(request), public_key=public_key, trust=trust)


def _receive(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return receive.receive(place, _read_request(stream, pieces=_is_pieces)["pieces"], stream)


def _install(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream, manifest=is_argument, signature=_is_base64, **EXPECTATION)
    return install.install(place, *_signed_manifest(request), _read_expectation(request))


def _rollback(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream, name=optional(is_argument), **EXPECTATION)
    return install.roll_back(place, request.get("name"), _read_expectation(request))


def _status(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    return install.status(place)


def _trust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    request = _read_request(stream, public_key=is_argument)
    return {"trusted": place.trust(signing.from_pem(request["public_key"], "the given key"))}


def _distrust(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    place.distrust(_read_request(stream, key=is_argument)["key"])
    return {"trusted": sorted(place.keys())}


def _clean(place: Store, stream: IO[bytes]) -> dict[str, Any]:
    with place.locked():
        receive.clean_incoming(place)
    return {"free_bytes": place.free_bytes()}


def _is_base64(value: object) -> bool:
    if value is None or not isinstance(value, str):
        return value is None
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return True


def _is_factor(value: object) -> bool:
    return is_number(value) and value < 1e9  # type: ignore[operator]


def _is_pieces(value: object) -> bool:
    kinds = {"sha256": is_argument, "size_bytes": is_count, "offset": is_count, "length": is_count}
    return every(record(kinds))(value) and all(set(piece) == set(kinds) for piece in value)  # type: ignore[attr-defined]


Kind = Callable[[object], bool]
EXPECTATION: dict[str, Kind] = {"profile": optional(is_argument), "latency_tolerance": _is_factor, "keep": is_count}
NEEDED = {"manifest", "pieces", "key", "public_key"}


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


def _served_versions(place: Store) -> dict[str, int | None]:
    """Return the served version of each model, as far as its files can be read."""
    try:
        return {model["name"]: model["version"] for model in install.status(place)["models"]}
    except (UserError, OSError):
        return {}


def _read_request(stream: IO[bytes], **kinds: Kind) -> dict[str, Any]:
    """Read a request, whose fields are of ``kinds``; further ones are left to later versions.

    Raises:
        TryAgainError: it did not come whole.
        UserError: it is no request; all faults at once.
    """
    line = stream.readline(MOST_REQUEST_BYTES)
    try:
        request = json.loads(line)
    except RecursionError:
        raise UserError("malformed request: it is nested too deeply") from None
    except ValueError:
        raise TryAgainError("the request did not come whole") from None
    if not isinstance(request, dict):
        raise UserError("malformed request: it is no JSON object")
    needed = {name for name in kinds if name in NEEDED and not (name == "public_key" and "manifest" in kinds)}
    faults = [f"malformed request: {name} is missing" for name in sorted(needed - set(request))]
    faults += [
        f"malformed request: {name} is of another kind"
        for name in kinds
        if not kinds[name](request.get(name, None)) and name in request
    ]
    if faults:
        raise UserError(*faults)
    return request


def _signed_manifest(request: dict[str, Any]) -> tuple[bytes, bytes | None]:
    signature = request.get("signature")
    return request["manifest"].encode(), None if signature is None else base64.b64decode(signature)


def _read_expectation(request: dict[str, Any]) -> install.Expectation:
    names = {field.name for field in fields(install.Expectation)}
    return install.Expectation(**{name: value for name, value in request.items() if name in names})


def _verify(folder: Path, keys: list[Path] | None, unsigned: bool, place: Store) -> list[str]:
    contents, raw, signature = manifest.read(folder)
    if not unsigned:
        if missing := [path for path in keys or [] if not path.is_file()]:
            raise UserError(*[f"--key {path}: no such file; `compress keys export` prints a public key" for path in missing])
        public_keys = {p: signing.read_pem(p) for p in keys or []}
        keys_by_id = {signing.key_id(key): key for key in public_keys.values()} if keys else place.keys()
        signing.check(contents, raw, signature, keys_by_id)
    faults = target.mismatches(contents.target)
    if faults:
        raise UserError(*[f"{folder}: {fault}" for fault in faults])
    with bundle.opened(folder) as session:
        check = golden.check(session, folder / "golden.npz")
        wrong = golden.faults(check, contents.target.precision)
        if wrong:
            raise install.ProofError("; ".join(wrong))
        from_raw = install.prove_raw(session, folder, contents.target.precision)
    signed = "signature not asked for" if unsigned else f"signed by {contents.key}"
    return [f"ok: {contents.name} {contents.version}, {signed}; {_samples(check.as_json())}, {_raws(from_raw)}"]


def _served_line(served: dict[str, Any]) -> str:
    form = f"{served['engine']} {served['precision']}"
    return f"ok: {served['name']} {served['version']}, {form}; {_samples(served['golden'])}, p50 {served['p50_ms']:.3f} ms"


def _raws(raw: dict[str, Any]) -> str:
    count = raw["samples"]
    return f"{count} of them from raw samples to answers" if count else f"none from raw samples: {raw['why_not']}"


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
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the device's disk is full ({error.strerror}); make room, or remove what came in before with `store clean`"
    return one_line(str(error)) or type(error).__name__
