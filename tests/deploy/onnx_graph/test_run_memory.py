"""Calibration's memory is that of a batch, however many samples there are."""

import subprocess
import sys
from pathlib import Path

MEASURE = """
import resource, tempfile
from pathlib import Path
import numpy as np, onnx
from deploy.onnx_graph.observe import observe
from tests.deploy.tiny import tiny_onnx

def peak_kib(samples):
    batches = (np.random.default_rng(i).normal(size=(10, 1, 16, 16)).astype(np.float32) for i in range(samples // 10))
    found = observe(model, ["input", "flat", "output"], batches, threads=1)
    assert found["input"].counts.sum() == samples * 256
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with tempfile.TemporaryDirectory() as folder:
    model = onnx.load(str(tiny_onnx(Path(folder) / "m.onnx")))
print(peak_kib(10), peak_kib(10_000))
"""


def test_ten_and_ten_thousand_samples_take_the_same():
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many <= 1.1 * few
