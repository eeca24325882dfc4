"""One owner at a time, and none that is not alive."""

import json
import os

import pytest

from deploy.board import lock as locks
from deploy.board.lock import Lock, LockError, read
from tests.conftest import wait_until


def test_one_has_it_and_the_other_is_told(tmp_path):
    first, second = Lock(tmp_path, "1", "anna on desk"), Lock(tmp_path, "2", "bert on sofa")
    assert first.take() is True
    assert first.take() is False, "it was ours"
    with pytest.raises(LockError, match=r"anna on desk, for \d+ s, last seen \d+ s ago"):
        second.take()
    first.release()
    assert second.take() is True
    first.release()
    assert read(tmp_path).owner == "2", "what is not ours is not released"
    second.release()


@pytest.mark.parametrize("change", [{"beat": -1000.0}, {"beat": 1e9}, {"boot": "another"}])
def test_a_silent_owner_and_one_from_before_a_restart_are_nobody(tmp_path, change):
    first, second = Lock(tmp_path, "1", "anna"), Lock(tmp_path, "2", "bert")
    first.take()
    first._stop.set()
    held = json.loads((tmp_path / locks.FILE).read_text())
    held |= {k: held[k] + v if isinstance(v, float) else v for k, v in change.items()}
    (tmp_path / locks.FILE).write_text(json.dumps(held))
    assert second.take() is True
    assert first.beat() is False, "who lost it does not take it back"
    assert read(tmp_path).owner == "2"
    second.release()


def test_a_broken_file_is_nobody(tmp_path):
    (tmp_path / locks.FILE).write_text('{"owner": ')
    assert read(tmp_path) is None
    assert Lock(tmp_path, "1", "anna").take() is True


def test_it_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    lock = Lock(tmp_path, "1", "anna")
    lock.take()
    began = read(tmp_path).beat
    wait_until(lambda: read(tmp_path).beat > began, "a beat")
    lock.release()
    assert read(tmp_path) is None


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_another_user_put_in_its_place_is_not_followed_nor_waited_for(kind, tmp_path):
    (tmp_path / "mine").write_text("precious")
    os.symlink(tmp_path / "mine", tmp_path / locks.FILE) if kind == "link" else os.mkfifo(tmp_path / locks.FILE)
    with pytest.raises(OSError, match="symbolic links|a pipe"):
        Lock(tmp_path, "1", "anna").take()
    assert read(tmp_path) is None and (tmp_path / "mine").read_text() == "precious"


def test_a_file_that_is_held_is_not_waited_for_without_end(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    (tmp_path / locks.FILE).touch()
    with (tmp_path / locks.FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            Lock(tmp_path, "1", "anna").take()
        assert read(tmp_path) is None
