"""Ship bundles to devices: send the missing contents, install them there, report the outcome. Runs on the host.

The device decides: it checks signature, target, version and expiry by itself, builds, proves and switches
(deploy/shipping/receive.py, deploy/shipping/install.py). All that is needed of the way there is ``Device.run``.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from deploy.bundle import manifest as manifests
from deploy.bundle.manifest import Manifest
from deploy.devices import CompletedCommand, Device, DeviceError
from deploy.shipping.install import LATENCY_TOLERANCE
from deploy.shipping.releases import KEEP
from deploy.shipping.responses import is_response, is_version
from profiles.errors import UserError, one_line

PIECE_BYTES = 16 << 20
"""Sent by one command: what a lost connection may cost, since the device keeps what reached it."""
SLOWEST_BYTES_S = 32 << 10
COMMAND_S = 120.0
MOST_DROPPED = 2

State = Literal["shipped", "already", "refused", "failed", "not tried"]
Trust = Literal["first", "add", "never"]
Say = Callable[[str], None]


class RefusedError(UserError):
    """A device's refusal of a request, with its reasons."""

    serving: Mapping[str, int] = {}


class FailedError(RuntimeError):
    """A failure on a device; names it and its last lines of output. What was ``serving`` there still is."""

    serving: Mapping[str, int] = {}


class _AgainError(RuntimeError):
    """A device's request to repeat the same request later."""


@final
@dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """Settings of a ship.

    Attributes:
        public_key: of the bundle's signer, in PEM; ``trust`` says whether a device is to trust it from now on.
        latency_tolerance: times the report's p50 that the device may take; 0 asks nothing.
        keep: releases that stay on the device.
        retries: attempts after the first when the connection breaks.
        wait_s: how long to wait for a device on which another ship is at work.
        build_s: longest time of building and proving there.
    """

    root: str | None = None
    public_key: str | None = None
    trust: Trust = "first"
    latency_tolerance: float = LATENCY_TOLERANCE
    keep: int = KEEP
    retries: int = 2
    wait_s: float = 60.0
    build_s: float = 3600.0


@final
@dataclass(frozen=True, kw_only=True)
class LoadedBundle:
    """A bundle whose files were read and match its manifest."""

    folder: Path
    manifest: Manifest
    raw: bytes
    signature: bytes | None

    def signed(self) -> dict[str, Any]:
        """Return the manifest and signature in the form of a request."""
        signature = None if self.signature is None else base64.b64encode(self.signature).decode()
        return {"manifest": self.raw.decode(), "signature": signature}

    def path(self, digest: str) -> Path:
        """Return a file with that content."""
        return self.folder / next(path for path, entry in self.manifest.files.items() if entry.sha256 == digest)


@final
@dataclass(frozen=True, kw_only=True)
class Destination:
    """A device and its profile's name, if one was given."""

    device: Device
    profile: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ShipResult:
    """The outcome of a ship to one device.

    Attributes:
        was: version that was served before, None for none or where the device did not say.
        now: version that is served, None where that is not known.
        sent_bytes: of the bundle's files, over the connection.
        trusted: id of the key that the device trusts since this ship.
    """

    device: str
    state: State
    was: int | None = None
    now: int | None = None
    sent_bytes: int = 0
    seconds: float = 0.0
    proof: Mapping[str, Any] | None = None
    trusted: str | None = None
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.state in ("shipped", "already")


def load(folder: Path) -> LoadedBundle:
    """Read a bundle and check its files.

    Raises:
        UserError: it is no bundle, or its files are not those of its manifest.
    """
    contents, raw, signature = manifests.read(folder)
    manifests.check_files(folder, contents)
    return LoadedBundle(folder=folder, manifest=contents, raw=raw, signature=signature)


def ship(freight: LoadedBundle, target: Destination, way: ShipOptions, say: Say = lambda line: None) -> ShipResult:
    """Ship to one device; never raises for what happens there or on the way."""
    journey = _Shipment(freight, target, way, say)
    started = time.monotonic()
    state: State = "failed"
    reasons: tuple[str, ...] = ()
    now: int | None = None
    try:
        state, now = journey.go(), freight.manifest.version
    except RefusedError as error:
        state, reasons, now = "refused", error.faults, error.serving.get(freight.manifest.name)
    except FailedError as error:
        reasons, now = tuple(str(error).splitlines()), error.serving.get(freight.manifest.name)
    except (DeviceError, UserError, OSError) as error:
        reasons = tuple(str(error).splitlines())
    return ShipResult(
        device=target.device.url,
        state=state,
        was=journey.was,
        now=now,
        sent_bytes=journey.sent_bytes,
        seconds=time.monotonic() - started,
        proof=journey.proof,
        trusted=journey.trusted,
        reasons=reasons,
    )


def ship_fleet(
    freight: LoadedBundle,
    targets: Sequence[Destination],
    way: ShipOptions,
    *,
    canary: int = 1,
    at_once: int = 4,
    say: Say = lambda line: None,
) -> list[ShipResult]:
    """Ship to the first ``canary`` devices one by one, then to the others ``at_once``; a failure starts no further one.

    Returns what became of each device, in the order of ``targets``.
    """
    stopped = threading.Event()

    def one(target: Destination) -> ShipResult:
        if stopped.is_set():
            return ShipResult(device=target.device.url, state="not tried", reasons=("another device failed before",))
        result = ship(freight, target, way, lambda line: say(f"{target.device.url}: {line}"))
        if not result.ok:
            stopped.set()
        return result

    first = [one(target) for target in targets[:canary]]
    with ThreadPoolExecutor(max_workers=max(at_once, 1)) as pool:
        return first + list(pool.map(one, targets[canary:]))


def roll_back(target: Destination, name: str | None, way: ShipOptions) -> dict[str, Any]:
    """Roll a device back one release.

    Raises:
        RefusedError: there is none to go back to, or it may not serve.
        DeviceError, FailedError: the device was not reached, or the release did not prove itself.
    """
    request = {"name": name, "profile": target.profile, "latency_tolerance": way.latency_tolerance}
    return _request(target.device, "rollback", request, way, timeout_s=way.build_s)


def status(target: Destination, way: ShipOptions) -> dict[str, Any]:
    """Return the models that a device serves.

    Raises:
        DeviceError, FailedError: it was not reached, or did not answer.
    """
    return _request(target.device, "status", {}, way)


def trust(target: Destination, public_key: str, way: ShipOptions) -> str:
    """Have a device trust a public key (PEM); return the key's id."""
    return str(_request(target.device, "trust", {"public_key": public_key}, way)["trusted"])


def distrust(target: Destination, key: str, way: ShipOptions) -> list[str]:
    """Have a device trust a key no longer; return the ids of those it still trusts."""
    return list(_request(target.device, "distrust", {"key": key}, way)["trusted"])


@final
class _Shipment:
    """One ship to one device, and its progress so far."""

    def __init__(self, freight: LoadedBundle, target: Destination, way: ShipOptions, say: Say) -> None:
        self._freight, self._target, self._way, self._say = freight, target, way, say
        self.was: int | None = None
        self.trusted: str | None = None
        self.proof: dict[str, Any] | None = None
        self.sent_bytes = 0

    def go(self) -> State:
        """Push and install; begins again where it was when the connection breaks."""
        left = self._way.retries
        while True:
            try:
                return self._once()
            except DeviceError as error:
                if left == 0:
                    raise
                left -= 1
                self._say(f"{error}; trying again")
                time.sleep(1.0)

    def _once(self) -> State:
        manifest = self._freight.manifest
        self._push()
        self._say("building and proving there")
        request = {
            **self._freight.signed(),
            "profile": self._target.profile,
            "latency_tolerance": self._way.latency_tolerance,
            "keep": self._way.keep,
        }
        result = _request(self._target.device, "install", request, self._way, timeout_s=self._way.build_s)
        self.proof = result["proof"]
        unchanged = result["was"] == result["release"]
        self._say(f"{manifest.name} {manifest.version} is served" + (", as before" if unchanged else ""))
        return "already" if unchanged else "shipped"

    def _push(self) -> None:
        """Offer the bundle and send missing contents, until the device has all."""
        dropped, missing = 0, self._offer()
        while missing:
            pieces = list(_next_pieces(missing, PIECE_BYTES))
            left = sum(m["size_bytes"] - m["have_bytes"] for m in missing)
            self._say(f"sending {left / 2**20:.1f} MiB" if left >= 2**20 else f"sending {left / 2**10:.0f} KiB")
            body = b"".join(self._read(piece) for piece in pieces)
            self.sent_bytes += len(body)
            try:
                _request_once(self._target.device, "receive", {"pieces": pieces}, self._way, body=body)
                missing = list(_remaining(missing, pieces))
            except _AgainError as error:
                dropped += 1
                if dropped > MOST_DROPPED:
                    raise FailedError(f"{self._target.device.url}: {error}") from None
                self._say(str(error))
                time.sleep(0.5)
                missing = self._offer()

    def _offer(self) -> list[dict[str, Any]]:
        request = {**self._freight.signed(), "public_key": self._way.public_key, "trust": self._way.trust}
        response = _request(self._target.device, "offer", request, self._way)
        unknown = {m["sha256"] for m in response["missing"]} - {e.sha256 for e in self._freight.manifest.files.values()}
        if unknown:
            raise FailedError(f"{self._target.device.url}: it asks for contents that are not in the bundle")
        self.was = response["was"]
        self.trusted = response["trusted"] or self.trusted
        return list(response["missing"])

    def _read(self, piece: Mapping[str, Any]) -> bytes:
        with self._freight.path(piece["sha256"]).open("rb") as file:
            file.seek(piece["offset"])
            return file.read(piece["length"])


def _next_pieces(missing: Sequence[Mapping[str, Any]], most_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield pieces of the missing contents, of ``most_bytes`` together."""
    room = most_bytes
    for content in missing:
        length = min(content["size_bytes"] - content["have_bytes"], room)
        if length > 0 or content["size_bytes"] == 0:
            known = {"sha256": content["sha256"], "size_bytes": content["size_bytes"]}
            yield {**known, "offset": content["have_bytes"], "length": length}
        room -= length


def _remaining(missing: Sequence[Mapping[str, Any]], pieces: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the contents still missing once ``pieces`` have arrived."""
    reached = {piece["sha256"]: piece["offset"] + piece["length"] for piece in pieces}
    for content in missing:
        have = reached.get(content["sha256"])
        if have is None or have < content["size_bytes"]:
            yield {**content, "have_bytes": content["have_bytes"] if have is None else have}


def _request(
    device: Device, act: str, request: Mapping[str, Any], way: ShipOptions, timeout_s: float = COMMAND_S
) -> dict[str, Any]:
    """Return the response to a request; repeated while the device is busy, for ``wait_s`` at most."""
    end = time.monotonic() + way.wait_s
    while True:
        try:
            return _request_once(device, act, request, way, timeout_s=timeout_s)
        except _AgainError as error:
            if time.monotonic() > end:
                raise FailedError(f"{device.url}: {error}") from None
            time.sleep(0.5)


def _request_once(
    device: Device,
    act: str,
    request: Mapping[str, Any],
    way: ShipOptions,
    *,
    body: bytes = b"",
    timeout_s: float = COMMAND_S,
) -> dict[str, Any]:
    """Run one command of the device side, and return its response."""
    command = [*device.deploy_command(), "store", act, *(["--root", way.root] if way.root else [])]
    sent = json.dumps(request).encode() + b"\n" + body
    process = device.run(command, stdin=sent, timeout_s=timeout_s + len(body) / SLOWEST_BYTES_S)
    line = process.stdout.strip().rpartition("\n")[2]
    try:
        response = json.loads(line) if line.startswith("{") else {}
    except (ValueError, RecursionError):
        response = {}
    if isinstance(response, dict) and "ok" in response:
        if not is_response(act, response["ok"]):
            raise FailedError(f"{device.url}: 'store {act}' answered, but not as the device side does")
        result: dict[str, Any] = response["ok"]
        return result
    raise _error(device, act, process, response if isinstance(response, dict) else {})


def _error(device: Device, act: str, done: CompletedCommand, answer: Mapping[str, Any]) -> Exception:
    """Return the exception for a response that is no success."""
    given = answer.get("reasons")
    reasons = [f"{device.url}: {one_line(str(reason))}" for reason in given] if isinstance(given, list) else []
    if answer.get("error") == "again":
        return _AgainError("; ".join(reason.removeprefix(f"{device.url}: ") for reason in reasons))
    words = " | ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
    error: RefusedError | FailedError
    if answer.get("error") == "refused" and reasons:
        error = RefusedError(*reasons)
    else:
        error = FailedError("\n".join(reasons) or f"{device.url}: 'store {act}' ended with {done.code}: {one_line(words)}")
    serving = answer.get("serving")
    error.serving = {
        name: version for name, version in (serving if isinstance(serving, dict) else {}).items() if is_version(version)
    }
    return error
