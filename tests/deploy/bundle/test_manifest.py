"""A manifest has one form, and refuses paths, sizes and files that no bundle may have."""

import json
import os
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from deploy.bundle.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Target,
    as_text,
    canonical,
    check_files,
    entries,
    parse,
    read,
)
from profiles.errors import UserError

DIGEST = "ab" * 32
GOOD = Manifest(
    name="digits",
    version=7,
    created="2026-11-21T12:00:00Z",
    target=Target(arch="aarch64", system="Linux", engine="onnxruntime", precision="int8", runtime_version="1.31.1"),
    files={"model.onnx": FileEntry(size_bytes=3, sha256=DIGEST)},
    versions={"torch": "2.13.0"},
)


def altered(**fields):
    data = json.loads(GOOD.canonical())
    return canonical({**data, **fields})


def test_it_reads_what_it_writes():
    assert parse(GOOD.canonical(), "x") == GOOD


def test_what_is_decoded_is_named_only_where_there_is_something():
    packed = replace(GOOD, decoded={"model.pte": FileEntry(size_bytes=9, sha256=DIGEST)})
    assert parse(packed.canonical(), "x") == packed
    assert b'"decoded":{"model.pte":' in packed.canonical() and b"decoded" not in GOOD.canonical()


def test_its_form_is_known():
    start = b'{"created":"2026-11-21T12:00:00Z","expires":null,"files":{"model.onnx":{"sha256":"abab'
    assert GOOD.canonical().startswith(start) and GOOD.canonical().endswith(b"}\n")


@pytest.mark.parametrize(
    "raw",
    [
        GOOD.canonical().replace(b":7,", b": 7,"),
        GOOD.canonical().replace(b'{"created', b'{"version":9,"created'),
        GOOD.canonical() + b"\n",
        GOOD.canonical().replace(b"digits", b"\\u0064igits"),
    ],
    ids=["space", "a key twice", "a line more", "escaped"],
)
def test_another_form_of_the_same_content_is_refused(raw):
    with pytest.raises(UserError, match="not in canonical form"):
        parse(raw, "x")


PATHS = ["../etc/passwd", "/etc/passwd", "a/../b", "a//b", ".hidden", "a/.b", "", "a\\b", "a\nb", "b/c/d/e/f", "ä", MANIFEST]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_a_bundle(path):
    with pytest.raises(UserError, match="no such path may be in a bundle"):
        parse(altered(files={path: {"size_bytes": 1, "sha256": DIGEST}}), "x")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": "../x"}, "letters, digits"),
        ({"version": 0}, "not a positive integer"),
        ({"version": True}, "not a positive integer"),
        ({"version": 1.5}, "not a positive integer"),
        ({"created": "today"}, "not a time"),
        ({"expires": "2026-11-21 12:00:00"}, "not a time"),
        ({"key": "K"}, "not the id of a key"),
        ({"more": 1}, "a manifest has"),
        ({"target": {"arch": "aarch64"}}, "target is not a table"),
        ({"versions": {"torch": 2}}, "table of texts"),
        ({"files": {}}, "1 to 1000 files"),
        ({"decoded": {}}, "decoded is not a table of 1 to 1000 files"),
        ({"decoded": {"../m": {"size_bytes": 1, "sha256": DIGEST}}}, "no such path may be in a bundle"),
        ({"decoded": {"model.onnx": {"size_bytes": 1, "sha256": DIGEST}}}, "in the bundle and decoded too"),
        ({"files": {"a": {"size_bytes": -1, "sha256": DIGEST}}}, "not within 0 to"),
        ({"files": {"a": {"size_bytes": 1 << 60, "sha256": DIGEST}}}, "not within 0 to"),
        ({"files": {"a": {"size_bytes": 1, "sha256": "../" + DIGEST}}}, "64 hexadecimal digits"),
        ({"files": {f"f{i}": {"size_bytes": 1, "sha256": DIGEST} for i in range(1001)}}, "1 to 1000 files"),
        ({"schema": 1}, "this version reads 2"),
    ],
)
def test_what_no_manifest_may_say_is_told(fields, fault):
    with pytest.raises(UserError, match=fault):
        parse(altered(**fields), "x")


@pytest.mark.parametrize("raw", [b"", b"[]", b"nonsense", b"\xff\xfe", b"[" * 100_000, b" " * ((1 << 20) + 1)])
def test_what_is_no_manifest_is_refused(raw):
    with pytest.raises(UserError, match="x: manifest.json"):
        parse(raw, "x")


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError) as caught:
        parse(altered(name="..", version=-1, key="?"), "x")
    assert len(caught.value.faults) == 3


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b" / "sub").mkdir(parents=True)
    (tmp_path / "b" / "one").write_bytes(b"1")
    (tmp_path / "b" / "sub" / "two").write_bytes(b"22")
    made = replace(GOOD, files=entries(tmp_path / "b"), created=as_text(datetime.now(timezone.utc)))
    (tmp_path / "b" / MANIFEST).write_bytes(made.canonical())
    return tmp_path / "b"


def test_whole_files_pass(folder):
    made, raw, signature = read(folder)
    assert (raw, signature) == (made.canonical(), None)
    check_files(folder, made)


def test_each_wrong_file_is_named(folder):
    made, _, _ = read(folder)
    (folder / "one").write_bytes(b"2")
    (folder / "sub/two").unlink()
    (folder / "three").touch()
    os.symlink("/etc/passwd", folder / "link")
    os.symlink("/etc", folder / "folder")
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError) as caught:
        check_files(folder, made)
    told = sorted(fault.split(": ", 1)[1] for fault in caught.value.faults)
    special = "is a link or a special file; a bundle holds plain files"
    wrong = [f"{name} {special}" for name in ("folder", "link", "pipe")]
    assert told == sorted([*wrong, "one was altered", "sub/two is missing", "three is not in the manifest"])


def test_a_link_in_place_of_a_file_is_refused_though_its_content_is_right(folder, tmp_path):
    made, _, _ = read(folder)
    (tmp_path / "elsewhere").write_bytes(b"1")
    (folder / "one").unlink()
    (folder / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="one is a link"):
        check_files(folder, made)
