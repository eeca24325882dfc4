"""A command on a device: what goes in, what comes out, and that none outlives its time."""

import time

import pytest

from deploy.devices import DeviceError, device
from tests.conftest import HANG_S


def test_a_command_gets_its_input_and_gives_its_words():
    done = device("local").run(["sh", "-c", "cat; echo fault >&2; exit 3"], stdin=b"given")
    assert (done.code, done.stdout, done.stderr) == (3, "given", "fault\n")


def test_a_command_reads_from_a_file(tmp_path):
    (tmp_path / "given").write_bytes(b"from a file")
    with (tmp_path / "given").open("rb") as stream:
        assert device("local").run(["cat"], stdin=stream).stdout == "from a file"


def test_a_command_out_of_time_is_stopped_and_told():
    started = time.monotonic()
    with pytest.raises(DeviceError, match=r"local: 'sleep' did not end within 0\.2 s; it was stopped"):
        device("local").run(["sleep", "3000"], timeout_s=0.2)
    assert time.monotonic() - started < HANG_S


def test_a_command_that_is_not_there_is_told():
    with pytest.raises(DeviceError, match="local: 'no-such-command' cannot be run: No such file or directory"):
        device("local").run(["no-such-command"])


def test_the_command_leads_to_the_device_side():
    there = device("local")
    assert there.run([*there.deploy_command(), "unheard-of"]).stderr.startswith("usage: python -m deploy")
