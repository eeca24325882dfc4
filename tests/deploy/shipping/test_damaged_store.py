"""A store whose own files are damaged: what is there is served, what is broken is told, and the next ship mends it."""

import json
import os
import subprocess
import sys

import pytest

from deploy.bundle import signing
from deploy.shipping import commands, receive
from deploy.shipping.install import Expectation, roll_back, serve_check, status
from deploy.shipping.releases import Store
from deploy.shipping.ship import load
from profiles.errors import UserError
from tests.conftest import HANG_S
from tests.deploy.bundles import bundle, put, served


def lead(slot, target):
    (slot / "current").unlink()
    (slot / "current").symlink_to(target)


def tell(slot, activated=(), highest=2):
    (slot / "history.json").write_text(json.dumps({"activated": activated, "highest": highest, "digest": ""}))


DAMAGES = {
    "history is empty": lambda slot: (slot / "history.json").write_text(""),
    "history is no JSON": lambda slot: (slot / "history.json").write_bytes(b"\xff{"),
    "history is a list": lambda slot: (slot / "history.json").write_text("[]"),
    "history is nested": lambda slot: (slot / "history.json").write_text("[" * 100_000),
    "history has another kind": lambda slot: tell(slot, activated=5),
    "history lacks": lambda slot: (slot / "history.json").write_text('{"activated": []}'),
    "history leads out": lambda slot: tell(slot, activated=["../../../../etc", "/etc", 3]),
    "history is a folder": lambda slot: [(slot / "history.json").unlink(), (slot / "history.json").mkdir()],
    "history is a link": lambda slot: [(slot / "history.json").unlink(), (slot / "history.json").symlink_to("/etc/passwd")],
    "current is a file": lambda slot: [(slot / "current").unlink(), (slot / "current").write_text("x")],
    "current is a folder": lambda slot: [(slot / "current").unlink(), (slot / "current/kept").mkdir(parents=True)],
    "current leads to nothing": lambda slot: [
        (slot / "current").unlink(),
        (slot / "current").symlink_to("releases/9-aaaaaaaaaaaa"),
    ],
    "current leads out": lambda slot: [(slot / "current").unlink(), (slot / "current").symlink_to("../../../../etc")],
    "current is a circle": lambda slot: [(slot / "current").unlink(), (slot / "current").symlink_to("current")],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_there_is_served_and_the_next_ship_mends(damage, store, key, tmp_path):
    for version in (1, 2):
        put(store, bundle(tmp_path / str(version), seed=version, key=key, version=version))
    slot = store.the_slot(None)
    DAMAGES[damage](slot.folder)
    (model,) = status(store)["models"]
    assert model["version"] == 2 and "the next ship mends it" in model["fault"]
    assert serve_check(store, None)[0]["version"] == 2
    with pytest.raises(UserError, match="no older one is taken"):
        put(store, bundle(tmp_path / "old", seed=9, key=key, version=1))
    put(store, bundle(tmp_path / "3", seed=3, key=key, version=3))
    (model,) = status(store)["models"]
    assert (model["version"], model["fault"]) == (3, None)
    assert os.readlink(slot.folder / "current") == f"releases/{model['release']}"
    assert roll_back(store, None, Expectation())["version"] == 2 and served(store) == 2


def test_names_in_a_store_that_are_not_ours_are_left(store, key, tmp_path):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    slot = store.the_slot(None)
    theirs = tmp_path / "theirs"
    (theirs / "kept").mkdir(parents=True)
    (slot.releases / "mine").mkdir()
    (slot.releases / "mine.part").mkdir()
    (slot.releases / "7-aaaaaaaaaaaa").symlink_to(theirs)
    (slot.releases / "7-aaaaaaaaaaaa.part").symlink_to(theirs)
    (store.incoming / "notes").write_text("mine")
    (store.root / "models/notes").write_text("mine")
    (store.root / "models/..x").mkdir()
    for version in range(2, 7):
        put(store, bundle(tmp_path / str(version), seed=version, key=key, version=version))
    receive.clean_incoming(store)
    assert (theirs / "kept").exists() and (store.incoming / "notes").exists()
    assert (slot.releases / "mine").exists() and (slot.releases / "mine.part").exists()


@pytest.mark.parametrize(
    ("refuse", "why"),
    [
        (lambda folder, key: bundle(folder, key=key, version=1), "no older one is taken"),
        (lambda folder, key: bundle(folder, key=key, version=3, arch="riscv64"), "it was made for riscv64"),
        (lambda folder, key: bundle(folder, key=key, version=3, expires="2020-01-01T00:00:00Z"), "it expired"),
    ],
)
@pytest.mark.parametrize("trust", ["add", "first"])
def test_the_key_of_a_refused_bundle_is_not_trusted(refuse, why, trust, key, tmp_path, monkeypatch):
    from compress.pipeline import signing_keys

    other, store = signing_keys.new("other"), Store(tmp_path / "home")
    if trust == "add":
        store.trust(signing.from_pem(key.pem, "key"))
        put(store, bundle(tmp_path / "2", seed=2, key=key, version=2))
    elif why == "no older one is taken":
        return
    before = store.keys()
    given = load(refuse(tmp_path / "refused", other))
    with pytest.raises(UserError, match=why):
        receive.offer(store, given.raw, given.signature, public_key=other.pem, trust=trust)
    assert store.keys() == before


def test_a_bundle_without_room_leaves_its_key_untrusted(key, tmp_path, monkeypatch):
    store, given = Store(tmp_path / "home"), load(bundle(tmp_path / "b", key=key))
    monkeypatch.setattr(Store, "free_bytes", lambda self: 1)
    with pytest.raises(UserError, match="MiB are free"):
        receive.offer(store, given.raw, given.signature, public_key=key.pem, trust="first")
    assert store.keys() == {}


VALUES = [None, True, -1, 0.5, 10**400, "", "\0", "\ud800", "../x", "é", [], [5], [[]], {}, {"a": 1}, [{}], [{"sha256": 1}]]


def test_a_malformed_request_is_one_answer(store, capfd):
    fields = {
        "offer": ["manifest", "signature", "public_key", "trust"],
        "receive": ["pieces"],
        "install": ["manifest", "signature", "profile", "latency_tolerance", "keep"],
        "rollback": ["name", "profile", "latency_tolerance", "keep"],
        "trust": ["public_key"],
        "distrust": ["key"],
    }
    lines = [(act, json.dumps(value)) for act in fields for value in VALUES if not isinstance(value, dict)]
    lines += [(act, "{}") for act in fields] + [(act, "[" * 100_000) for act in fields]
    whole = {"manifest": "{}", "signature": None, "public_key": None, "trust": "never", "key": "x", "name": "x"}
    lines += [(act, json.dumps({**whole, name: value})) for act in fields for name in fields[act] for value in VALUES]
    assert len(lines) > 300
    for act, line in lines:
        if act == "receive" and line.endswith('"pieces": []}'):
            continue  # nothing to receive is a request
        code, answer = commands.answer(act, store, line.encode() + b"\n")
        assert code in (2, 75) and answer["error"] in ("refused", "again"), (act, line)
        assert answer["reasons"] and all("\n" not in reason and len(reason) < 600 for reason in answer["reasons"])
    assert "Traceback" not in capfd.readouterr().err


def test_a_store_that_is_damaged_answers_by_its_command_too(store, key, tmp_path):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    DAMAGES["current is a file"](store.the_slot(None).folder)
    DAMAGES["history is nested"](store.the_slot(None).folder)
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "store", "offer", "--root", str(store.root)],
        input=b"{}\n",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 2 and done.stderr == b""
    assert json.loads(done.stdout) == {
        "error": "refused",
        "reasons": ["malformed request: manifest is missing"],
        "serving": {"small": 1},
    }
