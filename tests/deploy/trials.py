"""Trials of a ship that tests and the bench share: broken connections, flipped bytes, a file that changed."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from compress.pipeline import signing_keys
from deploy.bundle import manifest
from deploy.bundle.signing import from_pem
from deploy.devices import Device, device
from deploy.devices.ssh import SSH
from deploy.shipping.install import Expectation, install, serve_check
from deploy.shipping.receive import offer, receive
from deploy.shipping.releases import Store, TryAgainError
from deploy.shipping.ship import Destination, LoadedBundle, ShipOptions, ShipResult, load, ship, status
from profiles.errors import UserError
from tests.deploy.bundles import bundle, put, served
from tests.deploy.faults import Counting, Failing


@dataclass(frozen=True, kw_only=True)
class Break:
    """A ship over a connection that broke at a random moment.

    Attributes:
        during: the device's command in which it broke; None when it held to the end.
        serves: whether the device then served the old version or the new one, whole and proven.
        after: what became of the next ship, over a connection that holds.
    """

    during: str | None
    serves: bool
    after: ShipResult


def at(home: Path) -> Destination:
    """This machine as the device with its store at ``home``."""
    return Destination(device=device(f"local://{home}"))


def own_store(home: Path, key: signing_keys.Key) -> Store:
    """The store at ``home``, that trusts ``key``, in this process."""
    store = Store(home)
    store.trust(from_pem(key.pem, "x"))
    return store


def breaks(folder: Path, key: signing_keys.Key, *, rounds: int, seed: int) -> Iterator[Break]:
    """Ship ``rounds`` versions, each first over a line that breaks at a random moment, then over one that holds."""
    home, draw, way = folder / "home", random.Random(seed), ShipOptions(public_key=key.pem, retries=0, wait_s=30.0)
    weights = {"weights.bin": folder / "weights"}
    seconds = 0.0
    for version in range(1, rounds + 2):
        weights["weights.bin"].write_bytes(os.urandom(600_000))
        freight = load(bundle(folder / "b", seed=version, key=key, version=version, extras=weights))
        if version == 1:
            whole = ship(freight, Destination(device=Failing(home, 600.0, "kill", bytes_s=2e6)), way)
            assert whole.ok, whole
            seconds = whole.seconds
            continue
        there = Failing(home, draw.uniform(0.02, 1.0) * seconds, draw.choice(["kill", "cut"]), bytes_s=2e6)
        ship(freight, Destination(device=there), way)
        serves = _serves_whole(Store(home), (version - 1, version))
        there.settle()
        yield Break(during=there.during, serves=serves, after=ship(freight, at(home), way))


def breaks_over_ssh(folder: Path, key: signing_keys.Key, url: str, *, rounds: int, seed: int) -> Iterator[Break]:
    """``breaks`` on a board over SSH, in a store of its own there: every ssh of the connection is killed."""
    draw, root = random.Random(seed), f"/tmp/edge-store-{uuid.uuid4().hex}"
    way = ShipOptions(root=root, public_key=key.pem, retries=0, wait_s=30.0)
    weights = {"weights.bin": folder / "weights"}
    seconds = 0.0
    with closing(SSH(url)) as board:
        holds = Destination(device=board)
        arch = board.run(["uname", "-m"]).stdout.strip()
        try:
            for version in range(1, rounds + 3):
                weights["weights.bin"].write_bytes(os.urandom(600_000))
                made = bundle(folder / "b", seed=version, key=key, version=version, extras=weights, arch=arch)
                freight = load(made)
                if version <= 2:  # the first ship also sets the board up
                    whole = ship(freight, holds, way)
                    assert whole.ok, whole
                    seconds = whole.seconds
                    continue
                during = _ship_and_cut(freight, holds, way, draw.uniform(0.0, 1.0) * seconds)
                serves = _board_serves(holds, way, (version - 1, version))
                yield Break(during=during, serves=serves, after=ship(freight, holds, way))
        finally:
            board.run(["rm", "-rf", root])


def _ship_and_cut(freight: LoadedBundle, there: Destination, way: ShipOptions, after_s: float) -> str | None:
    """Ship over a connection that is killed ``after_s`` seconds later; "ssh" if that broke the ship."""
    killer = threading.Timer(after_s, _kill_connection, (there.device,))
    killer.start()
    done = ship(freight, there, way)
    killer.cancel()
    killer.join()
    return None if done.ok else "ssh"


def _kill_connection(there: Device) -> None:
    assert isinstance(there, SSH)
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "ssh" and any(
            str(there._connection.folder) in word for word in process.info["cmdline"] or []
        ):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _board_serves(holds: Destination, way: ShipOptions, versions: tuple[int, int]) -> bool:
    """Whether the board serves one of two versions, and that gives its golden outputs."""
    served_there = [model["version"] for model in status(holds, way)["models"]]
    assert way.root is not None
    proven = holds.device.run([*holds.device.deploy_command(), "serve-check", "--root", way.root], timeout_s=600)
    return len(served_there) == 1 and served_there[0] in versions and proven.code == 0


def flips(folder: Path, key: signing_keys.Key, *, places: int) -> int:
    """In how many of ``places``, over all files of a bundle, a device refuses it with one bit flipped there."""
    store = own_store(folder / "home", key)
    made = bundle(folder / "b", key=key, p50_ms=1.0)  # no two files alike: each must be asked for
    files = sorted(path for path in made.rglob("*") if path.is_file())
    sizes = np.array([path.stat().st_size for path in files])
    rng = np.random.default_rng(0)
    picked = rng.choice(len(files), places - len(files), p=sizes / sizes.sum())
    drawn = [(path, 0) for path in files] + [(files[i], int(rng.integers(sizes[i]))) for i in picked]
    return sum(_refused(store, made, path, place, 1 << int(rng.integers(8))) for path, place in drawn)


def resend(folder: Path, key: signing_keys.Key, *, files: int, file_bytes: int) -> int:
    """Bytes given to a device for a bundle of which one file of ``files`` differs from what is there."""
    extras = {f"weights/{i}.bin": folder / str(i) for i in range(files)}
    for path in extras.values():
        path.write_bytes(os.urandom(file_bytes))
    put(own_store(folder / "home", key), bundle(folder / "b", key=key, version=1, extras=extras))
    extras["weights/0.bin"].write_bytes(os.urandom(file_bytes))
    there = Counting(folder / "home")
    freight = load(bundle(folder / "b", key=key, version=2, extras=extras))
    done = ship(freight, Destination(device=there), ShipOptions(public_key=key.pem, retries=0))
    assert (done.state, done.was, done.now) == ("shipped", 1, 2), done
    return there.sent_bytes


def _serves_whole(store: Store, versions: tuple[int, int]) -> bool:
    return served(store) in versions and serve_check(store, "small")[0]["version"] in versions


def _refused(store: Store, folder: Path, path: Path, place: int, mask: int) -> bool:
    """Whether a device refuses the bundle with a bit of one byte changed, be it by what is said or by what is sent."""
    content = path.read_bytes()
    (store.incoming / hashlib.sha256(content).hexdigest()).unlink(missing_ok=True)  # so that this file is asked for
    path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
    try:
        _, raw, signature = manifest.read(folder)
        for sent in offer(store, raw, signature, public_key=None, trust="never")["missing"]:
            body = next(body for digest, body in _bodies(folder, raw) if digest == sent["sha256"])
            piece = {"sha256": sent["sha256"], "size_bytes": len(body), "offset": 0, "length": len(body)}
            receive(store, [piece], io.BytesIO(body))
        install(store, raw, signature, Expectation())
    except (UserError, TryAgainError):
        return store.slots() == []
    finally:
        path.write_bytes(content)
    return False


def _bodies(folder: Path, raw: bytes) -> list[tuple[str, bytes]]:
    """The digest that a manifest gives each file, and what is in it."""
    return [(entry.sha256, (folder / path).read_bytes()) for path, entry in manifest.parse(raw, "x").files.items()]
