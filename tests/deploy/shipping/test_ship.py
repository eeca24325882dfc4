"""Shipping to this machine as a device: through processes, over connections that break."""

import json
import os
import threading

import pytest

from compress.pipeline import signing_keys
from deploy.bundle import manifest
from deploy.devices import device
from deploy.shipping.install import serve_check
from deploy.shipping.receive import offer
from deploy.shipping.releases import Store
from deploy.shipping.ship import (
    Destination,
    FailedError,
    RefusedError,
    ShipOptions,
    distrust,
    load,
    roll_back,
    ship,
    ship_fleet,
    status,
    trust,
)
from profiles.errors import UserError
from tests.deploy.bundles import bundle, put, served
from tests.deploy.faults import Answering, Counting, Cramped, Failing
from tests.deploy.trials import at, breaks, own_store, resend


@pytest.fixture
def way(key):
    return ShipOptions(public_key=key.pem, retries=0, wait_s=20.0)


def test_a_ship_there_and_back(tmp_path, key):
    home, way = tmp_path / "home", ShipOptions(root=str(tmp_path / "elsewhere"), public_key=key.pem)
    one, two = (load(bundle(tmp_path / str(v), seed=v, key=key, version=v)) for v in (1, 2))
    first = ship(one, at(home), way)
    assert (first.state, first.was, first.now, first.trusted) == ("shipped", None, 1, key.id), first
    assert first.proof and first.proof["golden"]["cosine"] > 0.9999
    second = ship(two, at(home), way)
    assert (second.state, second.was, second.now, second.trusted) == ("shipped", 1, 2, None)
    again = ship(two, at(home), way)
    assert (again.state, again.sent_bytes) == ("already", 0)
    older = ship(one, at(home), way)
    assert (older.state, older.now) == ("refused", 2) and "no older one is taken" in older.reasons[0]
    assert roll_back(at(home), None, way)["version"] == 1
    told = status(at(home), way)
    assert [model["version"] for model in told["models"]] == [1] and told["keys"] == [key.id]
    assert served(Store(tmp_path / "elsewhere")) == 1 and not home.exists()


def test_keys_come_and_go(tmp_path, key, way):
    there = at(tmp_path / "home")
    assert trust(there, key.pem, way) == key.id
    with pytest.raises(UserError, match="key '00' is not trusted"):
        distrust(there, "00", way)
    assert distrust(there, key.id, way) == []


def test_an_altered_bundle_does_not_leave_here(tmp_path, key):
    folder = bundle(tmp_path / "b", key=key)
    (folder / "profile.json").write_text("{}")
    with pytest.raises(UserError, match="profile.json was altered"):
        load(folder)


def test_only_the_file_that_changed_is_sent(tmp_path, key):
    assert 250_000 <= resend(tmp_path, key, files=10, file_bytes=250_000) < 300_000


# Faults


def test_a_connection_that_breaks_costs_nothing(tmp_path, key):
    for broken in breaks(tmp_path, key, rounds=1, seed=1):
        assert broken.serves and broken.after.ok, broken


@pytest.mark.slow
def test_a_broken_connection_is_taken_up_again(tmp_path, key):
    """What came before the break is not sent again."""
    home = tmp_path / "home"
    (tmp_path / "weights").write_bytes(os.urandom(3_000_000))
    freight = load(bundle(tmp_path / "b", key=key, extras={"weights.bin": tmp_path / "weights"}))
    way = ShipOptions(public_key=key.pem, retries=0)
    first = Failing(home, 2.5, "cut", bytes_s=1e6)
    assert ship(freight, Destination(device=first), way).state == "failed"
    first.settle()
    if first.during != "receive":
        pytest.skip(f"this machine was too slow or too fast: the break fell into {first.during}")
    rest = Counting(home)
    assert ship(freight, Destination(device=rest), way).ok
    assert rest.sent_bytes < 2_900_000


def test_a_full_disk_leaves_the_old_model_serving(tmp_path, key, way):
    home = tmp_path / "home"
    store = own_store(home, key)
    put(store, bundle(tmp_path / "b", key=key, version=1))
    (tmp_path / "weights").write_bytes(os.urandom(500_000))
    folder = bundle(tmp_path / "c", seed=1, key=key, version=2, extras={"weights.bin": tmp_path / "weights"})
    freight = load(folder)
    done = ship(freight, Destination(device=Cramped(home, 200_000)), way)
    assert (done.state, done.now) == ("failed", 1) and "File too large" in done.reasons[0]
    assert serve_check(store, None)[0]["version"] == 1
    missing = offer(store, freight.raw, freight.signature, public_key=None, trust="never")["missing"]
    assert max(content["have_bytes"] for content in missing) == 200_000
    assert ship(freight, at(home), way).ok and served(store) == 2


@pytest.mark.slow
def test_two_ships_at_once_end_with_the_newer_one(tmp_path, key, way):
    home = tmp_path / "home"
    freights = [load(bundle(tmp_path / str(v), seed=v, key=key, version=v)) for v in (1, 2)]
    done = {}
    threads = [
        threading.Thread(target=lambda f=f: done.update({f.manifest.version: ship(f, at(home), way)})) for f in freights
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done[2].state == "shipped"
    assert done[1].state == "shipped" or "no older one is taken" in done[1].reasons[0]
    assert serve_check(Store(home), None)[0]["version"] == 2


# Fleets


def test_a_canary_that_fails_keeps_the_others_from_it(tmp_path, key, way):
    homes = [tmp_path / name for name in ("a", "b", "c")]
    other = signing_keys.new("other")
    trust(at(homes[0]), other.pem, way)
    done = ship_fleet(load(bundle(tmp_path / "bundle", key=key)), [at(home) for home in homes], way, canary=1)
    assert [one.state for one in done] == ["refused", "not tried", "not tried"]
    assert not homes[1].exists() and not homes[2].exists()


@pytest.mark.slow
def test_a_fleet_is_shipped_to(tmp_path, key, way):
    homes = [tmp_path / name for name in ("a", "b", "c")]
    said = []
    done = ship_fleet(
        load(bundle(tmp_path / "bundle", key=key)), [at(home) for home in homes], way, canary=2, say=said.append
    )
    assert [(one.state, one.device) for one in done] == [("shipped", f"local://{home}") for home in homes]
    assert any(line.startswith(f"local://{homes[2]}: sending") for line in said)


def test_an_answer_is_one_line_of_json_whatever_else_is_printed(tmp_path):
    there = device(f"local://{tmp_path / 'home'}")
    done = there.run([*there.deploy_command(), "store", "status"])
    assert json.loads(done.stdout)["ok"]["models"] == [] and done.stdout.count("\n") == 1


def test_the_manifest_is_what_is_signed(tmp_path, key):
    folder = bundle(tmp_path / "b", key=key)
    found, raw, signature = manifest.read(folder)
    assert raw == found.canonical() and signature is not None and len(signature) == 64


ANSWERS = [
    *("", "hello", "{", "[]", "5", "null", "[" * 100_000, '{"ok": 5}', '{"ok": []}', '{"ok": {}}', '{"ok": null}', "{}"),
    *('{"error": 5}', '{"error": "refused"}', '{"error": "refused", "reasons": 5}', '{"error": "failed", "serving": [1]}'),
    *(
        json.dumps({"ok": {"missing": missing, "was": was, "trusted": trusted}})
        for missing, was, trusted in [
            ([{"sha256": 64 * "a", "size_bytes": 1, "have_bytes": 0}], None, None),
            ([{"sha256": "../../etc/passwd", "size_bytes": 1, "have_bytes": 0}], None, None),
            ([{"sha256": 64 * "a", "size_bytes": -1, "have_bytes": 0}], None, None),
            ([{"sha256": 64 * "a", "size_bytes": 1, "have_bytes": 2}], None, None),
            ([{}], None, None),
            (5, None, None),
            ([], "1", None),
            ([], None, "\x1b[2J"),
        ]
    ),
    *(
        json.dumps({"ok": {"models": models, "keys": keys}})
        for models, keys in [([{}], []), ([{"name": "x"}], []), (5, []), ([], [5]), ([[]], [])]
    ),
    json.dumps({"error": "refused", "reasons": ["\x1b[2J" + "x" * 10_000 + "\nsecond"], "serving": {"small": "x"}}),
]


@pytest.mark.parametrize("words", ANSWERS, ids=range(len(ANSWERS)))
def test_a_device_that_answers_anything_is_told_in_short_lines(words, key, tmp_path):
    """A ship, a look and a rollback end in an error of ours, whatever the other machine says."""
    there = Destination(device=Answering(tmp_path / "home", words))
    done = ship(load(bundle(tmp_path / "b", key=key)), there, ShipOptions(wait_s=0.0, retries=0))
    assert done.state in ("failed", "refused") and done.reasons
    assert all(len(reason) < 700 and reason.isprintable() for reason in done.reasons)
    for ask in (lambda: status(there, ShipOptions(wait_s=0.0)), lambda: roll_back(there, None, ShipOptions(wait_s=0.0))):
        with pytest.raises((RefusedError, FailedError)):
            ask()
