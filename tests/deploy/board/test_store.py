"""Files known by their content: whole or not there."""

import hashlib
import os
import shutil
import time
from collections import namedtuple

import pytest

from deploy.board.store import KEPT_DAYS, Store, StoreError

DATA = b"0123456789" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def add(store, data=DATA):
    digest = hashlib.sha256(data).hexdigest()
    store.append(digest, 0, len(data), [data])
    store.finish(digest)
    return digest


def test_a_file_comes_in_parts_and_goes_on_where_it_was(store):
    assert store.missing([DIGEST]) == {DIGEST: 0}
    store.append(DIGEST, 0, len(DATA), [DATA[:100], DATA[100:4000]])
    assert store.missing([DIGEST]) == {DIGEST: 4000}
    store.append(DIGEST, 3000, len(DATA), [DATA[3000:]])
    store.finish(DIGEST)
    assert store.missing([DIGEST]) == {}
    store.finish(DIGEST)


def test_another_file_than_was_said_is_removed(store):
    store.append(DIGEST, 0, 3, [b"bad"])
    with pytest.raises(StoreError, match="altered on its way"):
        store.finish(DIGEST)
    assert store.missing([DIGEST]) == {DIGEST: 0}


def test_a_tree_holds_files_under_their_names(store):
    tree = store.tree({"model.onnx": add(store), "below/other": add(store, b"other")})
    assert (store.root / "trees" / tree / "below/other").read_bytes() == b"other"
    assert store.tree({"below/other": add(store, b"other"), "model.onnx": DIGEST}) == tree, "order is not content"


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", ""])
def test_a_name_does_not_lead_out_of_its_folder(store, name):
    with pytest.raises(StoreError, match="leads out of its folder"):
        store.tree({name: add(store)})


def test_a_digest_is_a_digest(store):
    with pytest.raises(StoreError, match="is no SHA-256"):
        store.missing(["../../lock.json"])


def test_no_room_is_told_before_a_byte_is_written(store, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(StoreError, match="the disk is full: a file of 10000 bytes does not fit"):
        store.append(DIGEST, 0, len(DATA), [DATA])
    assert not list((store.root / "parts").iterdir())


def test_forgetting_removes_a_tree_and_what_only_it_had(store):
    kept = store.tree({"a": add(store)})
    gone = store.tree({"a": add(store), "b": add(store, b"b")})
    store.forget(store.root / "trees" / gone / "b")
    assert store.missing([DIGEST]) == {}
    assert len(store.missing([hashlib.sha256(b"b").hexdigest()])) == 1
    assert (store.root / "trees" / kept / "a").read_bytes() == DATA
    outside = store.root.parent / "outside"
    outside.write_text("")
    store.forget(outside)
    assert outside.exists()


def test_what_the_device_made_need_not_be_sent_back(store):
    made = store.root / "work/x/engine"
    made.mkdir(parents=True)
    (made / "model.onnx").write_bytes(DATA)
    assert store.listing(made) == [{"path": "model.onnx", "size": len(DATA), "sha256": DIGEST}]
    assert store.missing([DIGEST]) == {}
    store.sweep()
    assert store.missing([DIGEST]) == {}, "work is over; the file may be put again"
    assert not (store.root / "work/x").exists()


def test_what_nobody_asked_for_in_days_goes(store):
    tree = store.tree({"a": add(store)})
    store.sweep()
    assert (store.root / "trees" / tree).exists()
    old = time.time() - KEPT_DAYS * 86400 - 10
    for path in [*(store.root / "blobs").iterdir(), *(store.root / "trees").iterdir()]:
        os.utime(path, (old, old))
    store.sweep()
    assert store.missing([DIGEST]) == {DIGEST: 0} and not list((store.root / "trees").iterdir())


def test_where_links_are_not_known_files_are_copied(store, monkeypatch):
    monkeypatch.setattr(os, "link", lambda a, b: (_ for _ in ()).throw(PermissionError("no links")))
    tree = store.tree({"a": add(store)})
    assert (store.root / "trees" / tree / "a").read_bytes() == DATA
