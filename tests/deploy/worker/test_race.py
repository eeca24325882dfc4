"""A race of real workers, on a machine that says what a test makes it say."""

import os
import subprocess
import sys

import numpy as np
import pytest

from deploy.devices import device
from deploy.engines import engine
from deploy.measure.load import Load
from deploy.worker.client import RemoteWorker
from deploy.worker.patience import Patience
from deploy.worker.race import drift, locked_clocks, race
from profiles.device import load
from profiles.errors import UserError
from tests.conftest import wait_until
from tests.deploy.tiny import tiny_onnx


def test_drift_is_the_last_tenth_against_the_first():
    assert drift([1.0] * 10 + [5.0] * 80 + [1.5] * 10) == pytest.approx(0.5)
    assert drift([2.0]) == 0


def raced(tmp_path, seconds=0.02):
    plan = engine("onnxruntime").plan(load("cpu"), "fp32", engine("onnxruntime").affinity().version)
    with RemoteWorker(device("local")) as worker:
        worker.build(tiny_onnx(tmp_path / "model.onnx"), plan, tmp_path / "engine")
        worker.open(tmp_path / "engine")
        worker.warm({"input": np.zeros((1, 1, 16, 16), np.float32)})
        return race({"tiny": worker}, seconds, lambda done, total: None)


def test_a_board_that_throttles_meanwhile_is_not_measured_clean(tmp_path, monkeypatch):
    """A Raspberry Pi's own command, quiet at the first look and not at the next."""
    pi = tmp_path / "vcgencmd"
    pi.write_text(
        f"#!/bin/sh\necho throttled=$(cat {tmp_path}/next 2>/dev/null || echo 0x0); echo 0x40004 > {tmp_path}/next\n"
    )
    pi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = raced(tmp_path)
    assert len(found.times["tiny"]) >= 121, "eleven rounds of eleven"
    assert "throttled now (0 before, 1 after)" in found.doubts
    assert "throttled since the start (0 before, 1 after)" in found.doubts
    told = found.conditions()
    assert told["before"]["throttle"]["throttled now"] == 0 and told["after"]["throttle"]["throttled now"] == 1
    assert told["energy_mj"] == {}, "no rails, no figure"


def test_clocks_are_held_by_a_process_of_the_device_or_the_user_is_told(tmp_path, monkeypatch):
    said = tmp_path / "said"
    (tmp_path / "jetson_clocks").write_text(f'#!/bin/sh\necho "$1" >> {said}\n')
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift; exec "$@"\n')
    for name in ("jetson_clocks", "sudo"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ZeroDivisionError, match="--store$"), locked_clocks(device("local"), lock=True):
        raise ZeroDivisionError(said.read_text().strip())
    wait_until(lambda: "--restore" in said.read_text())  # a process of its own puts them back, after the worker is gone
    assert said.read_text() == "--store\n\n--restore\n"
    (tmp_path / "jetson_clocks").write_text("#!/bin/sh\necho not permitted >&2; exit 1\n")
    with pytest.raises(UserError, match="--lock-clocks: .*jetson_clocks --store .* failed: not permitted"):
        locked_clocks(device("local"), lock=True).__enter__()
    with locked_clocks(device("local"), lock=False):
        pass


class Device:
    """What ``Patience`` asks a worker: loads of idle devices, one a look."""

    def __init__(self, *busy_cores):
        self.looks = iter(busy_cores)

    def look(self, seconds):
        return Load(wall_s=1.0, cores=2, others_s=next(self.looks))


def test_a_race_waits_until_the_device_is_quiet_and_no_longer_than_it_may():
    said = []
    patience = Patience(8.0, said.append)
    assert patience.wait(Device(1.5, 1.5, 1.5, 0.1), "busy") == (True, 3.0)
    assert said[0] == "  waiting for a quiet device, 7 s at most: other processes used 1.5 of 2 cores"
    assert patience.wait(Device(*[1.5] * 99), "busy") == (False, 8.0)
    assert patience.wait(Device(*[1.5] * 99), "busy") == (False, 4.0), "in vain before: half as long"
    assert patience.wait(Device(1.5, 0.0), "busy") == (True, 1.0)
    assert patience.wait(Device(*[1.5] * 99), "busy") == (False, 8.0), "it has been quiet since"
    assert Patience(0.0, said.append).wait(Device(), "busy") == (False, 0.0)
    assert len([line for line in said if "waiting" in line]) == 7, "told every five seconds"


BURN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def test_a_real_race_beside_processes_that_compute_says_so(tmp_path):
    """As many as there are cores: whatever is timed shares them."""
    others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(os.cpu_count() or 1)]
    try:
        found = raced(tmp_path, seconds=0.2)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert any(doubt.startswith("other processes used") for doubt in found.doubts), found.doubts
    assert found.conditions()["load"]["others_s"] == found.load.others_s > 0
    assert found.waited_s == 0, "no patience, no wait"
