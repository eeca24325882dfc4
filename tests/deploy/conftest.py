"""A board to test against without one: the fake ssh runs everything here, below a folder of the test's own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.pipeline import signing_keys
from deploy.board import link
from deploy.devices import device
from tests.conftest import HANG_S, ROOT
from tests.deploy.trials import own_store


class FakeBoard:
    """What is on the other side of the fake ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "home"
        (folder / "pids").mkdir(parents=True)
        (folder / "bin").mkdir()
        ssh = folder / "bin/ssh"
        ssh.write_text(f"#!{sys.executable} -IS\n" + (ROOT / "tests/fake_ssh.py").read_text())
        ssh.chmod(0o755)
        self.opened = []

    def device(self, python=sys.executable):
        there = device(f"ssh://board?root={self.root}" + (f"&python={python}" if python else ""))
        self.opened.append(there)
        return there

    def cut(self):
        """Break every connection that there is now; returns how many."""
        found = 0
        for file in list((self.folder / "pids").iterdir()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.name), signal.SIGKILL)
                found += 1
            file.unlink()
        return found

    def cut_after(self, *sizes):
        """The next connections break after so many bytes."""
        (self.folder / "cuts").write_text("\n".join(map(str, sizes)))

    def fail(self, words):
        """Every connection fails with ``words``; none does with None."""
        if words is None:
            (self.folder / "words").unlink()
        else:
            (self.folder / "words").write_text(words)

    def processes(self):
        """Process ids on this machine that have to do with the board, seen by its folder in their command lines."""
        found = subprocess.run(["pgrep", "-f", str(self.root)], capture_output=True, text=True, check=False).stdout
        return [int(line) for line in found.split()]

    def is_left_alone(self, within_s=HANG_S):
        """Whether no process of the board is left, soon."""
        give_up = time.monotonic() + within_s
        while left := self.processes():
            if time.monotonic() > give_up:
                subprocess.run(["ps", "-o", "pid,ppid,stat,args", "-p", ",".join(map(str, left))], check=False)
                return False
            time.sleep(0.05)
        return True


@pytest.fixture
def board(tmp_path, monkeypatch):
    made = FakeBoard(tmp_path / "board")
    monkeypatch.setenv("PATH", f"{made.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH", str(made.folder))
    monkeypatch.delenv("EDGE_SSH_CONFIG", raising=False)
    monkeypatch.setattr(link, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(link, "FIRST_PAUSE_S", 0.05)
    yield made
    for there in made.opened:
        there.close()
    assert made.is_left_alone(), "a process was left on the board"


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A signing key of the test's own, which is the default one."""
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    return signing_keys.new("default")


@pytest.fixture
def store(tmp_path, key):
    """A device's store that trusts ``key``."""
    return own_store(tmp_path / "home", key)
