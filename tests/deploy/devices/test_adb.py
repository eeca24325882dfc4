"""Which adb words a device makes, run for real by a fake adb whose device is this machine."""

import os
import sys

import pytest

from deploy.devices import DeviceError, device
from deploy.worker.client import RemoteWorker
from profiles.errors import UserError
from tests.deploy.board.test_root import CASES, snapshot

ADB = """#!/bin/sh
echo "$@" >> {log}
[ "$1 $2" = "-s phone" ] || {{ echo "adb: device '$2' not found" >&2; exit 1; }}
shift 2
case $1 in
push) mkdir -p "$(dirname "$3")" && cp "$2" "$3" ;;
pull) cp "$2" "$3" ;;
shell) shift 2; exec sh -c "$*" ;;
esac
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    (tmp_path / "adb").write_text(ADB.format(log=tmp_path / "log"))
    (tmp_path / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return device(f"adb://phone?root={tmp_path / 'phone'}&python={sys.executable}")


def test_files_go_once_and_come_back(phone, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given/a b").write_bytes(b"data")
    remote = phone.put(tmp_path / "given")
    assert phone.put(tmp_path / "given") == remote
    assert (tmp_path / "log").read_text().count(" push ") == 1
    phone.get(remote, tmp_path / "back")
    assert (tmp_path / "back/a b").read_bytes() == b"data"
    phone.get(f"{remote}/a b", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"data"
    with pytest.raises(DeviceError):
        phone.get(f"{remote}/none", tmp_path / "none")


def test_commands_keep_their_words_and_their_time(phone):
    done = phone.run(["sh", "-c", 'cat; echo "$1" >&2; exit 3', "-", "a 'b' $HOME"], stdin=b"given")
    assert (done.code, done.stdout, done.stderr) == (3, "given", "a 'b' $HOME\n")
    with pytest.raises(DeviceError, match=r"'sleep' did not end within 0\.2 s"):
        phone.run(["sleep", "30"], timeout_s=0.2)


def test_a_worker_there(phone, tmp_path):
    with RemoteWorker(phone) as worker:
        assert worker.facts()["device"]["cores"] >= 1
    assert phone.status()["size_bytes"]["code"] > 100_000
    phone.clean()
    assert not (tmp_path / "phone").exists()


def test_what_is_wrong_is_told(phone, tmp_path):
    with pytest.raises(DeviceError, match="'adb devices' lists what is connected"):
        device("adb://other").run(["true"])
    with pytest.raises(UserError, match="wrong Python: /no/such there is missing"):
        device(f"adb://phone?root={tmp_path / 'phone'}&python=/no/such").deploy_command()
    with pytest.raises(UserError, match="write adb://serial"):
        device("adb://")


@pytest.mark.parametrize("case", ["a user's folder with our names", "one hidden file", "a dangling link", "made is a link"])
def test_a_folder_that_is_not_ours_is_refused_and_left_as_it_is(phone, tmp_path, case):
    CASES[case](tmp_path / "phone")
    (tmp_path / "given").write_bytes(b"data")
    (tmp_path / "log").touch()
    before = {path: held for path, held in snapshot(tmp_path).items() if not path.endswith("/log")}
    uses = [lambda: phone.put(tmp_path / "given"), lambda: phone.path(tmp_path / "x"), phone.deploy_command, phone.clean]
    for use in uses:
        with pytest.raises(UserError, match="is not used, and nothing in it was removed"):
            use()
    phone.forget(f"{tmp_path / 'phone'}/made/../jobs/x")
    phone.forget(f"{tmp_path / 'phone'}/made/jobs/x")
    assert {path: held for path, held in snapshot(tmp_path).items() if not path.endswith("/log")} == before
