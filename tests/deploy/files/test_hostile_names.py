"""Five hundred hostile names at each place that takes one from elsewhere: none gets outside."""

import base64
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from deploy.board import install
from deploy.board.store import Store, StoreError
from deploy.bundle import bundle as bundles
from deploy.bundle import manifest
from deploy.devices import DeviceError, device
from deploy.files import UnsafeNameError, name_fault
from profiles.errors import UserError
from tests.deploy.bundles import bundle
from tests.deploy.hostile import many

NAMES = many(500)
REFUSED = [name for name in NAMES if name_fault(name)]


def files(folder):
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)


def test_there_are_enough_of_them():
    assert len(NAMES) >= 500 and len(REFUSED) >= 490


@pytest.fixture
def hostile_board(board):
    """A board whose device side says whatever is in ``names`` of the files that it has."""
    there = board.device()
    there.run(["true"])
    (code,) = (board.root / "code").iterdir()
    store = code / "deploy/board/store.py"
    answer = f"        return json.loads(open({str(board.folder / 'names')!r}).read())\n        path.lstat()\n"
    store.write_text(store.read_text().replace("        path.lstat()\n", answer))
    there.close()
    return board


@pytest.mark.parametrize("names", [REFUSED[::8], pytest.param(REFUSED, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_board_names_files_to_fetch(hostile_board, tmp_path, names):
    """Each is asked for over a connection: some of them here, all of them in the slow tests."""
    there = hostile_board.device()
    there.run(["true"])
    before = files(tmp_path)
    for name in names:
        if name == "":  # the one file that was asked for, by its own name
            continue
        (hostile_board.folder / "names").write_text(json.dumps([{"path": name, "size": 1, "sha256": 64 * "a"}]))
        with pytest.raises(DeviceError, match="named a file"):
            there.get("/remote", tmp_path / "back/here")
    assert [path for path in files(tmp_path) if path not in before and not path.endswith("/names")] == []


def test_a_list_of_files_that_is_none(hostile_board, tmp_path):
    there = hostile_board.device()
    for listing in ([3], [[]], [{"path": "a"}], [{"path": "a", "size": "1", "sha256": "x"}], None, 1, "a"):
        (hostile_board.folder / "names").write_text(json.dumps(listing))
        with pytest.raises(DeviceError):
            there.get("/remote", tmp_path / "back")
    (hostile_board.folder / "names").write_text("{}")
    there.get("/remote", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_phone_names_files_to_fetch(tmp_path, monkeypatch):
    names = tmp_path / "names"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/adb").write_text(f"#!/bin/sh\n[ $3 = shell ] && cat '{names}'\nexit 0\n")
    (tmp_path / "bin/adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    phone = device("adb://phone?root=/phone")
    for name in REFUSED:
        if name and not any(c in name for c in "\n\r\ud800\u2028\x1b") and len(name) < 5000:
            names.write_text(f"./{name}\n")
            with pytest.raises(DeviceError, match="no name for a file|leads through"):
                phone.get("/remote", tmp_path / "back/here")
    assert files(tmp_path) == sorted(map(str, [names, tmp_path / "bin/adb"]))


def test_a_client_names_files_of_a_tree(tmp_path):
    store = Store(tmp_path / "store")
    before = files(tmp_path)
    for name in REFUSED:
        with pytest.raises(StoreError, match="leads out of its folder"):
            store.tree({name: 64 * "a"})
    assert files(tmp_path) == before


def test_an_archive_names_files_to_unpack(tmp_path):
    """All in one process, as on a board: the program that unpacks there needs nothing of ours."""
    code = (
        "import base64, io, json, sys\n"
        "script, out = compile(sys.argv[1], 'unpack', 'exec'), []\n"
        "stdin, sys.argv = sys.stdin, ['-c', sys.argv[2], 'name']\n"
        "for archive in json.load(stdin):\n"
        "    sys.stdin = io.TextIOWrapper(io.BytesIO(base64.b64decode(archive)))\n"
        "    try:\n"
        "        exec(script, {'__name__': '__main__'})\n"
        "    except ValueError as error:\n"
        "        out.append(type(error).__name__)\n"
        "print(len(out))\n"
    )
    archives = [base64.b64encode(archive(name)).decode() for name in REFUSED if not set(name) & {"\0", "\ud800"}]
    archives += [
        base64.b64encode(archive("a", kind)).decode() for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE)
    ]
    (tmp_path / "below").mkdir()
    words = [sys.executable, "-IS", "-c", code, install.unpack_script(), str(tmp_path / "below")]
    done = subprocess.run(
        words, input=json.dumps(archives), capture_output=True, text=True, cwd=tmp_path / "below", check=True
    )
    # tar itself takes slashes off the end of a name, and off nothing else: what is left over may be a plain name.
    assert int(done.stdout) >= len(archives) - sum(name.endswith("/") for name in REFUSED)
    root = str(tmp_path / "below/code/")
    assert all(path.startswith(root) for path in files(tmp_path))


def archive(name, kind=tarfile.REGTYPE):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogatepass") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, 1 if kind == tarfile.REGTYPE else 0, "/etc/passwd"
        tar.addfile(entry, io.BytesIO(b"x"))
    return buffer.getvalue()


def test_a_bundles_manifest_names_files_and_a_model(tmp_path):
    folder = bundle(tmp_path / "bundle")
    data = json.loads((folder / "manifest.json").read_bytes())
    entry = data["files"]["README.md"]
    for name in NAMES:
        files_of_one = {**data, "files": {name: entry}}
        assert manifest_faults(files_of_one) == (not manifest.is_path(name)), name
        assert manifest.is_path(name) <= (name_fault(name) is None)
        assert manifest.is_name(name) <= (name_fault(name) is None and "/" not in name)
        assert manifest_faults({**data, "name": name}) == (not manifest.is_name(name)), name
    for name in ("con", "a/nul.onnx", "aux.bin", "lpt1", "a."):
        assert manifest_faults({**data, "files": {name: entry}}), name
    for name in ("CON", "nul.v1", "model."):
        assert manifest_faults({**data, "name": name}), name


def manifest_faults(data):
    try:
        manifest.parse(manifest.canonical(data), "here")
    except UserError:
        return True
    return False


def test_a_file_more_of_a_bundle_is_named(tmp_path):
    for name in REFUSED[:20]:
        with pytest.raises(UnsafeNameError):
            bundles.check_extras({name: tmp_path})
