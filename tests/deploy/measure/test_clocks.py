"""Clocks are held only while asked, and are put back whatever happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.measure import clocks
from deploy.measure.clocks import ClockLock, ClocksError
from tests.conftest import HANG_S, wait_until

POLICIES = "sys/devices/system/cpu/cpufreq"


@pytest.fixture
def root(tmp_path):
    for number, governor in enumerate(("schedutil\n", "powersave\n")):
        (tmp_path / POLICIES / f"policy{number}").mkdir(parents=True)
        (tmp_path / POLICIES / f"policy{number}/scaling_governor").write_text(governor)
    return tmp_path


def governors(root):
    return [p.read_text() for p in sorted((root / POLICIES).glob("*/scaling_governor"))]


HELD, BEFORE = ["performance\n"] * 2, ["schedutil\n", "powersave\n"]


def test_held_and_put_back(root):
    holder = ClockLock(root)
    assert governors(root) == HELD
    holder.close()
    assert governors(root) == BEFORE


def test_put_back_when_the_block_fails(root):
    with pytest.raises(RuntimeError), clocks.lock_clocks(root):
        raise RuntimeError(str(governors(root)))
    assert governors(root) == BEFORE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_put_back_when_who_asked_is_killed(root, number):
    code = (
        "import pathlib, sys, time; from deploy.measure.clocks import ClockLock; "
        f"ClockLock(pathlib.Path(sys.argv[1])); time.sleep({HANG_S})"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, root], start_new_session=True)
    wait_until(lambda: governors(root) == HELD)
    os.killpg(asking.pid, number)
    asking.wait()
    wait_until(lambda: governors(root) == BEFORE)


def test_a_machine_without_clocks_is_told(tmp_path):
    with pytest.raises(ClocksError, match="this machine shows no clocks to lock"):
        ClockLock(tmp_path)


def test_half_locked_is_put_back(root):
    """The second policy cannot be written: the first is as it was."""
    second = root / POLICIES / "policy1/scaling_governor"
    second.unlink()
    second.symlink_to("/proc/version")
    with pytest.raises(ClocksError, match="the governor cannot be set"):
        ClockLock(root)
    assert (root / POLICIES / "policy0/scaling_governor").read_text() == BEFORE[0]


def test_jetson_clocks_are_stored_first_and_restored_last(tmp_path, monkeypatch):
    said = tmp_path / "said"
    fake = tmp_path / "jetson_clocks"
    fake.write_text(f'#!/bin/sh\necho "$1" >> {said}\n')
    fake.chmod(0o755)
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift; exec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with clocks.lock_clocks(Path("/")):
        assert said.read_text() == "--store\n\n"
    assert said.read_text() == "--store\n\n--restore\n"
