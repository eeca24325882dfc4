"""Locks: one holder, known by name, free when it is gone however it went."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from compress.execution.locks import LOCK, HeldError, locked, only_writer
from deploy.files.confined import python_environment
from profiles.errors import UserError

HOLDER = """
import sys, time
from pathlib import Path
from compress.execution.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``tmp_path / LOCK``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK)]
    process = subprocess.Popen(command, env=python_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_writer_is_told_who_the_first_is(holder, tmp_path):
    with pytest.raises(UserError) as caught, only_writer(tmp_path):
        pass
    (fault,) = caught.value.faults
    assert f"{tmp_path} is being written to by process {holder.pid} (-c " in fault and "another folder (--out)" in fault
    assert 0 <= int(fault.partition("for ")[2].partition(" s")[0]) < 60 and "\n" not in fault


def test_a_lock_whose_holder_was_killed_is_free(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == holder.pid
    with only_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_with_patience_takes_its_turn(tmp_path):
    with only_writer(tmp_path):
        begun = time.monotonic()
        with pytest.raises(UserError, match="is being written to by"), only_writer(tmp_path, patience_s=0.2):
            pass
        assert time.monotonic() - begun >= 0.2
    with only_writer(tmp_path, patience_s=0.2):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "since": 1, "host": 1, "command": []}', "\0" * 9000])
def test_a_lock_that_says_nothing_of_its_holder_is_held_all_the_same(content, tmp_path):
    with locked(tmp_path / LOCK):
        (tmp_path / LOCK).write_text(content)
        with pytest.raises(HeldError, match="another process"), locked(tmp_path / LOCK):
            pass
    with locked(tmp_path / LOCK):
        pass


def test_who_waits_goes_on_when_it_is_free_and_never_two_at_once(tmp_path):
    inside, most, told = 0, 0, []

    def work():
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / LOCK, told.append):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1) and told
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_start_at_once_one_writes_and_each_other_is_told(tmp_path):
    start, written, refused = threading.Barrier(24), [], []

    def write():
        start.wait()
        try:
            with only_writer(tmp_path):
                written.append(1)
                done.wait()
        except UserError as error:
            refused.append(error.faults)
            if len(refused) == 23:
                done.set()

    done = threading.Event()
    threads = [threading.Thread(target=write) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(written) == 1 and len(refused) == 23
