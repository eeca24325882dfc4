"""Peak memory of a process: its own, not its parent's, and of the worker that holds an engine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.devices import device
from deploy.engines import engine
from deploy.measure.footprint import peak_mib
from deploy.worker.client import RemoteWorker
from profiles.device import load
from tests.deploy.tiny import tiny_onnx

TOLD = """
import sys
from deploy.measure.footprint import peak_mib
held = bytearray(int(sys.argv[1]) << 20)
for page in range(0, len(held), 4096):
    held[page] = 1
del held
print(peak_mib())
"""


def told(mib):
    return float(subprocess.run([sys.executable, "-c", TOLD, str(mib)], capture_output=True, text=True, check=True).stdout)


def test_of_linux_it_is_the_high_water_mark_in_mib(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  99999 kB\nVmHWM:\t    2560 kB\nVmRSS:\t 1 kB\n")
    assert peak_mib(tmp_path / "status") == 2.5


def test_without_proc_the_kernel_counts_for_it_too():
    assert peak_mib(Path("/no/such/file")) == pytest.approx(peak_mib(), rel=0.5)


def test_what_was_freed_again_counts_and_what_the_parent_holds_does_not():
    """64 MiB that were touched for a moment are seen; this process's own, far more, are not its child's."""
    ballast = np.ones(100 << 17)  # 100 MiB
    small, large = told(0), told(64)
    assert 60 < large - small < 70
    assert small < peak_mib() - ballast.nbytes / 2**20 / 2


def test_a_worker_tells_what_its_engine_costs(tmp_path):
    plan = engine("onnxruntime").plan(load("cpu"), "fp32", engine("onnxruntime").affinity().version)
    with RemoteWorker(device("local")) as worker:
        worker.build(tiny_onnx(tmp_path / "model.onnx"), plan, tmp_path / "engine")
    with RemoteWorker(device("local")) as worker:
        before = worker.peak_mib()
        loaded = worker.open(tmp_path / "engine")["load_ms"]
        again = worker.open(tmp_path / "engine")["load_ms"]
        first_ms = worker.warm({"input": np.zeros((1, 1, 16, 16), np.float32)})
        assert worker.peak_mib() > before + 5, "the runtime is in it"
        assert loaded > 2 * again > 0, "the first time the runtime is imported"
        assert first_ms > 0
