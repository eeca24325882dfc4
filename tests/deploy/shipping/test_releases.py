"""The store on a device: what it refuses and why, what it takes in, how it switches, and what a power cut leaves."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from compress.pipeline import signing_keys
from deploy.bundle import manifest
from deploy.bundle.signing import from_pem
from deploy.files import switch_link
from deploy.shipping import commands
from deploy.shipping.install import Expectation, ProofError, install, roll_back, serve_check, status
from deploy.shipping.receive import offer, receive
from deploy.shipping.releases import Store, TryAgainError, locked
from deploy.shipping.ship import load
from profiles.errors import UserError
from tests.conftest import HANG_S, wait_until
from tests.deploy.bundles import bundle, put, send, served
from tests.deploy.trials import flips, own_store

NEVER = {"public_key": None, "trust": "never"}


def offered(store, folder, **options):
    _, raw, signature = manifest.read(folder)
    return offer(store, raw, signature, **{**NEVER, **options})


def refusal(act):
    with pytest.raises(UserError) as caught:
        act()
    return "\n".join(caught.value.faults)


def test_a_bundle_is_taken_in_proven_and_served(store, key, tmp_path):
    done = put(store, bundle(tmp_path / "b", key=key, version=5))
    assert (done["name"], done["version"], done["was"]) == ("small", 5, None)
    assert done["proof"]["golden"]["max_abs"] < 1e-5 and done["proof"]["golden"]["samples"] == 4
    assert served(store) == 5
    (checked,) = serve_check(store, None)
    assert checked["version"] == 5 and checked["p50_ms"] > 0
    assert not list(store.incoming.iterdir())
    assert (store.root / "models/small/current/bundle/model.onnx").is_file()
    assert store.root.stat().st_mode & 0o077 == 0


# Refusals


def test_an_unsigned_bundle_is_refused(store, tmp_path):
    folder = bundle(tmp_path / "b", version=5)
    assert refusal(lambda: offered(store, folder)) == "bundle small 5 is not signed; sign it with `compress sign`"


def test_a_key_that_is_not_trusted_is_refused(store, tmp_path):
    other = signing_keys.new("other")
    folder = bundle(tmp_path / "b", key=other, version=5)
    (trusted,) = store.keys()
    told = f"bundle small 5 is signed by key {other.id}, which is not trusted here; trusted: {trusted}; `compress keys"
    assert refusal(lambda: offered(store, folder)).startswith(told)


def test_who_claims_a_trusted_key_without_having_it_is_refused(store, key, tmp_path):
    folder = bundle(tmp_path / "b", key=signing_keys.new("other"), version=5)
    found, _, signature = manifest.read(folder)
    raw = found.canonical().replace(found.key.encode(), key.id.encode())
    assert "its signature does not match" in refusal(lambda: offer(store, raw, signature, **NEVER))


def test_the_first_key_is_trusted_on_first_use_and_a_second_only_when_asked(store, key, tmp_path):
    second = signing_keys.new("second")
    fresh = Store(tmp_path / "fresh")
    one, two = bundle(tmp_path / "b", key=key), bundle(tmp_path / "c", key=second)
    assert "not trusted here; trusted: none" in refusal(lambda: offered(fresh, one, public_key=key.pem, trust="never"))
    assert offered(fresh, one, public_key=key.pem, trust="first")["trusted"] == key.id
    assert offered(fresh, one, public_key=key.pem, trust="first")["trusted"] is None
    assert "is not trusted here" in refusal(lambda: offered(fresh, two, public_key=second.pem, trust="first"))
    assert offered(fresh, two, public_key=second.pem, trust="add")["trusted"] == second.id
    assert set(fresh.keys()) == {key.id, second.id}
    fresh.distrust(key.id)
    assert "is not trusted here" in refusal(lambda: offered(fresh, one))


def test_a_key_is_not_trusted_by_a_bundle_that_it_did_not_sign(key, tmp_path):
    fresh = Store(tmp_path / "fresh")
    folder = bundle(tmp_path / "b", key=key)
    (folder / manifest.SIGNATURE).write_bytes(bytes(64))
    assert "does not match" in refusal(lambda: offered(fresh, folder, public_key=key.pem, trust="first"))
    assert not fresh.keys()


def test_an_older_version_is_refused_and_so_is_another_with_the_same(store, key, tmp_path):
    put(store, bundle(tmp_path / "new", key=key, version=5))
    old, same = bundle(tmp_path / "old", key=key, version=4), bundle(tmp_path / "same", seed=1, key=key, version=5)
    assert "version 5 was here already, and no older one is taken" in refusal(lambda: offered(store, old))
    assert "another bundle with this version was here already" in refusal(lambda: offered(store, same))
    assert offered(store, tmp_path / "new")["missing"] == []


def test_an_older_version_is_refused_after_a_rollback_too(store, key, tmp_path):
    for version in (1, 3):
        put(store, bundle(tmp_path / str(version), seed=version, key=key, version=version))
    roll_back(store, None, Expectation())
    assert served(store) == 1
    assert "version 3 was here already" in refusal(lambda: put(store, bundle(tmp_path / "2", seed=2, key=key, version=2)))
    put(store, tmp_path / "3")
    assert served(store) == 3


def test_an_expired_bundle_is_refused_and_so_is_a_clock_that_is_behind(store, key, tmp_path):
    now = datetime.now(timezone.utc)
    past, future = (manifest.as_text(now + timedelta(days=days)) for days in (-1, 30))
    expired = bundle(tmp_path / "a", key=key, expires=past)
    assert f"it expired at {past}" in refusal(lambda: offered(store, expired))
    early = bundle(tmp_path / "b", key=key, created=future, expires=manifest.as_text(now + timedelta(days=60)))
    assert "the device's clock says" in refusal(lambda: offered(store, early))
    assert offered(store, bundle(tmp_path / "c", key=key, expires=future))["missing"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"arch": "riscv64"}, "it was made for riscv64; this device is"),
        ({"system": "Plan9"}, "it was made for Plan9; this device runs"),
        ({"engine": "abacus"}, "it needs the engine 'abacus'; this device knows"),
        ({"runtime_version": "9.1"}, "it was proven with onnxruntime 9.1; this device has"),
        ({"compute_capability": "99.9"}, "a GPU of compute capability 99.9; this device has"),
    ],
)
def test_another_target_is_refused(store, key, tmp_path, fields, why):
    assert why in refusal(lambda: offered(store, bundle(tmp_path / "b", key=key, **fields)))


def test_what_does_not_fit_is_told_at_once(store, key, tmp_path):
    told = refusal(lambda: offered(store, bundle(tmp_path / "b", key=key, arch="riscv64", expires="2020-01-01T00:00:00Z")))
    assert len(told.splitlines()) == 2


def test_any_flipped_bit_is_refused(key, tmp_path):
    """200 places over all files, the manifest and its signature included."""
    assert flips(tmp_path, key, places=200) == 200


@pytest.mark.parametrize("path", ["../../evil", "/tmp/evil", "a/../../evil"])
def test_a_path_that_leads_out_is_refused_though_it_is_signed(store, key, tmp_path, path):
    folder = bundle(tmp_path / "b", key=key)
    found, _, _ = manifest.read(folder)
    data = json.loads(found.canonical())
    data["files"][path] = data["files"]["model.onnx"]
    raw = manifest.canonical(data)
    assert "no such path may be in a bundle" in refusal(
        lambda: offer(store, raw, signing_keys.signer(key).sign(raw), **NEVER)
    )


@pytest.mark.parametrize("digest", ["../../evil", "A" * 64, "", "ab"])
def test_a_piece_with_a_name_of_its_own_is_refused(store, digest):
    piece = {"sha256": digest, "size_bytes": 1, "offset": 0, "length": 1}
    assert "is not possible" in refusal(lambda: receive(store, [piece], io.BytesIO(b"x")))


# Taking in


def test_a_file_goes_on_where_the_connection_broke(store, key, tmp_path):
    (tmp_path / "cache").write_bytes(os.urandom(300_000))
    folder = bundle(tmp_path / "b", key=key, extras={"calibration.cache": tmp_path / "cache"})
    freight = load(folder)
    digest = freight.manifest.files["calibration.cache"].sha256
    content = (folder / "calibration.cache").read_bytes()
    piece = {"sha256": digest, "size_bytes": 300_000, "offset": 0, "length": 300_000}
    with pytest.raises(TryAgainError, match="ended after 120000 of 300000 bytes"):
        receive(store, [piece], io.BytesIO(content[:120_000]))
    (left,) = [m for m in offered(store, folder)["missing"] if m["sha256"] == digest]
    assert left["have_bytes"] == 120_000
    with pytest.raises(TryAgainError, match="does not continue"):
        receive(store, [piece], io.BytesIO(content))
    receive(store, [{**piece, "offset": 120_000, "length": 180_000}], io.BytesIO(content[120_000:]))
    assert digest not in {m["sha256"] for m in offered(store, folder)["missing"]}


def test_a_file_that_arrived_altered_is_dropped(store):
    digest = "0" * 64
    with pytest.raises(TryAgainError, match="000000000000 arrived altered and was dropped"):
        receive(store, [{"sha256": digest, "size_bytes": 3, "offset": 0, "length": 3}], io.BytesIO(b"abc"))
    assert not list(store.incoming.iterdir())


def test_what_is_here_in_any_release_is_not_asked_for_unless_it_rotted(store, key, tmp_path):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    second = bundle(tmp_path / "2", seed=1, key=key, version=2)
    files = load(second).manifest.files
    asked = {m["sha256"] for m in offered(store, second)["missing"]}
    assert asked == {files[name].sha256 for name in ("model.onnx", "golden.npz")}
    kept = store.root / "models/small/current/bundle/profile.json"
    kept.chmod(0o644)
    kept.write_bytes(b" " * kept.stat().st_size)
    assert files["profile.json"].sha256 in {m["sha256"] for m in offered(store, second)["missing"]}


def test_two_ships_of_one_file_do_not_mix(store):
    store.prepare()
    part = store.incoming / ("ab" * 32 + ".part")
    part.write_bytes(b"")
    with locked_by_another(part), pytest.raises(TryAgainError, match="another ship is sending abab"):
        receive(store, [{"sha256": "ab" * 32, "size_bytes": 3, "offset": 0, "length": 3}], io.BytesIO(b"abc"))


def test_one_install_at_a_time(store, key, tmp_path):
    freight = load(bundle(tmp_path / "b", key=key))
    send(store, freight)
    with locked_by_another(store.root / "lock"), pytest.raises(TryAgainError, match="is in use by"):
        install(store, freight.raw, freight.signature, Expectation())
    install(store, freight.raw, freight.signature, Expectation())


class locked_by_another:  # noqa: N801  # reads as a context
    """A process that holds a lock; the lock ends when it is killed."""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        code = (
            "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
        )
        command = [sys.executable, "-c", f"{code}; time.sleep({HANG_S})", self._path]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._process.stdout.readline()

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()


def test_a_lock_names_who_holds_it(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(TryAgainError, match=f"in use by process {os.getpid()} since 2"):
        locked(tmp_path / "lock").__enter__()
    with locked(tmp_path / "lock"):
        pass


# Proving


def test_an_engine_that_gives_other_outputs_does_not_serve(store, key, tmp_path):
    put(store, bundle(tmp_path / "good", key=key, version=1))
    bad = bundle(tmp_path / "bad", key=key, version=2)
    with np.load(bad / "golden.npz") as stored:
        golden = dict(stored)
    np.savez(bad / "golden.npz", input=golden["input"], output=np.roll(golden["output"], 1, axis=1))
    rewrite(bad, key)
    with pytest.raises(ProofError, match=r"golden outputs differ: cosine .*; fp32 must reach 0\.9999"):
        put(store, bad)
    assert served(store) == 1 and serve_check(store, "small")
    assert [path.name for path in (store.root / "models/small/releases").iterdir()] == [store.the_slot(None).current().id]


def test_every_output_is_compared(store, key, tmp_path):
    bad = bundle(tmp_path / "bad", outputs=2, key=key, version=2)
    with np.load(bad / "golden.npz") as stored:
        golden = dict(stored)
    assert golden["output.1"].shape == (4, 6)
    np.savez(bad / "golden.npz", **{**golden, "output.1": golden["output.1"][::-1]})
    rewrite(bad, key)
    with pytest.raises(ProofError, match="golden outputs differ"):
        put(store, bad)


def rewrite(folder, key):
    """Sign a bundle again after a change of its files."""
    from dataclasses import replace

    from deploy.bundle.bundle import sign

    found, _, _ = manifest.read(folder)
    (folder / manifest.MANIFEST).write_bytes(replace(found, files=manifest.entries(folder), key=None).canonical())
    sign(folder, signing_keys.signer(key))


def test_a_model_that_the_runtime_refuses_does_not_serve(store, key, tmp_path):
    from deploy.engines import EngineError

    put(store, bundle(tmp_path / "good", key=key, version=1))
    bad = bundle(tmp_path / "bad", key=key, version=2)
    (bad / "model.onnx").write_bytes(b"no model")
    rewrite(bad, key)
    with pytest.raises(EngineError):
        put(store, bad)
    assert served(store) == 1


def test_latency_is_held_against_the_report_on_a_device_like_its(store, key, tmp_path):
    slow = bundle(tmp_path / "slow", key=key, version=1, p50_ms=1e-6)
    with pytest.raises(ProofError, match=r"p50 is .* ms; the report has 0\.000 ms, and 1\.5 times that is allowed"):
        put(store, slow, Expectation(profile="cpu"))
    assert store.slots() == []
    for expected in (Expectation(profile="cpu", latency_tolerance=0), Expectation(profile="another"), Expectation()):
        put(store, slow, expected)
    fine = bundle(tmp_path / "fine", key=key, version=2, p50_ms=1e3)
    assert put(store, fine, Expectation(profile="cpu"))["proof"]["reference_ms"] == 1e3


# Switching


def test_a_link_leads_somewhere_at_every_moment(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    switch_link(tmp_path / "current", "a")
    stop, seen = threading.Event(), set()

    def look():
        while not stop.is_set():
            seen.add((tmp_path / "current/file").read_text())

    thread = threading.Thread(target=look)
    thread.start()

    def switch():
        for _ in range(100):
            switch_link(tmp_path / "current", "b")
            switch_link(tmp_path / "current", "a")
        return len(seen) == 2 or not thread.is_alive()

    wait_until(switch, "a look at both")
    stop.set()
    thread.join()
    assert seen == {"a", "b"} and sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "current"]


def test_so_many_releases_are_kept(store, key, tmp_path):
    for version in range(1, 6):
        put(store, bundle(tmp_path / "b", seed=version, key=key, version=version), Expectation(keep=3))
    (told,) = status(store)["models"]
    assert [int(release.partition("-")[0]) for release in told["releases"]] == [3, 4, 5]
    assert told["previous"].startswith("4-") and told["version"] == 5 and told["key"] == key.id


def test_rollback_goes_back_one_at_a_time_and_proves_it(store, key, tmp_path):
    for version in (1, 2, 3):
        put(store, bundle(tmp_path / "b", seed=version, key=key, version=version))
    for version in (2, 1):
        assert roll_back(store, None, Expectation())["version"] == version
        assert served(store) == version and serve_check(store, None)
    assert "there is no release before 1-" in refusal(lambda: roll_back(store, None, Expectation()))
    put(store, bundle(tmp_path / "b", seed=4, key=key, version=4))
    assert roll_back(store, "small", Expectation())["version"] == 1


def test_rollback_of_an_altered_release_is_refused(store, key, tmp_path):
    for version in (1, 2):
        put(store, bundle(tmp_path / "b", seed=version, key=key, version=version))
    model = store.the_slot(None).previous().bundle / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(b"x" + model.read_bytes()[1:])
    assert "did not come" in refusal(lambda: roll_back(store, None, Expectation()))
    assert served(store) == 2


def test_a_damaged_engine_is_built_again(store, key, tmp_path):
    for version in (1, 2):
        put(store, bundle(tmp_path / str(version), seed=version, key=key, version=version))
    (store.the_slot(None).previous().engine / "model.onnx").write_bytes(b"rot")
    assert roll_back(store, None, Expectation())["release"].endswith(".2")
    assert served(store) == 1 and serve_check(store, None)
    assert "there is no release before" in refusal(lambda: roll_back(store, None, Expectation()))
    put(store, tmp_path / "2")
    assert served(store) == 2 and store.the_slot(None).previous().manifest().version == 1


def test_an_engine_that_another_runtime_built_is_told_and_built_again(store, key, tmp_path):
    put(store, bundle(tmp_path / "b", key=key, version=1))
    engine = store.the_slot(None).current().engine
    record = json.loads((engine / "engine.meta.json").read_text())
    record["plan"]["version"] = "1.2.3"
    (engine / "engine.meta.json").write_text(json.dumps(record))
    assert "plan.version was 1.2.3, is" in refusal(lambda: serve_check(store, None))
    assert put(store, tmp_path / "b")["release"].endswith(".2")
    assert serve_check(store, None)[0]["version"] == 1


def test_rollback_to_a_key_that_is_trusted_no_longer_is_refused(store, key, tmp_path):
    second = signing_keys.new("second")
    store.trust(from_pem(second.pem, "x"))
    put(store, bundle(tmp_path / "b", seed=1, key=key, version=1))
    put(store, bundle(tmp_path / "c", seed=2, key=second, version=2))
    store.distrust(key.id)
    assert "which is not trusted here" in refusal(lambda: roll_back(store, None, Expectation()))


def test_a_power_cut_before_the_switch_leaves_a_true_history(store, key, tmp_path):
    """The history is written first: with the link still on the old release, everything holds."""
    for version in (1, 2):
        put(store, bundle(tmp_path / str(version), seed=version, key=key, version=version))
    freight = load(bundle(tmp_path / "3", seed=3, key=key, version=3))
    send(store, freight)
    slot = store.the_slot(None)
    before = slot.current()
    install(store, freight.raw, freight.signature, Expectation())
    switch_link(slot.folder / "current", f"releases/{before.id}")
    assert served(store) == 2 and slot.previous().manifest().version == 1
    assert install(store, freight.raw, freight.signature, Expectation())["version"] == 3
    assert slot.previous().manifest().version == 2


def test_what_an_interrupted_install_left_is_cleared(store, key, tmp_path):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    left = store.root / "models/small/releases/9-0123456789ab.part"
    (left / "engine").mkdir(parents=True)
    put(store, bundle(tmp_path / "2", seed=2, key=key, version=2))
    assert not left.exists()


def test_a_damaged_current_is_told(store, key, tmp_path):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    shutil.rmtree(store.the_slot(None).current().folder)
    (told,) = status(store)["models"]
    assert "damaged" in told["fault"]
    put(store, bundle(tmp_path / "2", seed=2, key=key, version=2))
    assert served(store) == 2


def test_nothing_served_is_told(tmp_path):
    assert "no model is served here" in refusal(lambda: serve_check(Store(tmp_path / "none"), None))
    assert "`compress ship` brings one" in refusal(lambda: Store(tmp_path / "none").the_slot(None))
    assert status(Store(tmp_path / "none"))["models"] == []
    assert not Path(tmp_path / "none").exists()


def test_a_key_s_file_that_is_not_there_is_told_with_a_remedy(key, tmp_path, capfd):
    folder = bundle(tmp_path / "b", key=key)
    assert commands.verify([str(folder), "--key", str(tmp_path / "none.pem")]) == 2
    assert "none.pem: no such file; `compress keys export`" in capfd.readouterr().out


def test_room_is_asked_for_before_anything_is_sent(key, tmp_path):
    """A real small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    try:
        store = own_store(disk / "home", key)
        told = refusal(lambda: offered(store, bundle(tmp_path / "b", key=key)))
        assert "MiB are free; bundle small" in told and "needs 8." in told
    finally:
        subprocess.run(["umount", disk], check=True)
