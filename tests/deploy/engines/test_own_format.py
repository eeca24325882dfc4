"""A runtime with a file format of its own, added by an installed package: exporter, engine, two lines of entry points."""

import json
import os
import re
import subprocess
import sys

import pytest

from deploy.bundle.bundle import verify
from profiles.errors import UserError
from tests.conftest import ROOT

FILES = {
    "matvec-2.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: matvec\nVersion: 2.1\n",
    "matvec-2.1.dist-info/entry_points.txt": """
[edge_compress.exports]
matvec = matvec.engine:FORMAT

[edge_compress.engines]
matvec = matvec.engine:MatVec
""",
    "matvec/__init__.py": '''
"""A runtime for networks of dense layers; reads .mv files."""

import io

import numpy as np


def load(file):
    with np.load(io.BytesIO(open(file, "rb").read().removeprefix(b"MATVEC 2"))) as stored:
        return [stored[name] for name in stored.files]


def run(arrays, x):
    x = x.reshape(len(x), -1)
    for weight, bias in zip(arrays[::2], arrays[1::2]):
        x = x @ weight.T + bias
        if weight is not arrays[-2]:
            x = np.maximum(x, 0)
    return x
''',
    "matvec/engine.py": '''
"""matvec as an engine; numpy only."""

import shutil
from typing import final

import matvec
from deploy.engines import BuildPlan, Engine, ExportFormat, Session
from deploy.engines.base import TensorSpec, check_feed

EXAMPLE = """
With matvec alone:

```python
import matvec
import numpy as np

golden = np.load("golden.npz")
outputs = matvec.run(matvec.load("model.mv"), golden["input"][:{batch}])
print("largest difference:", np.abs(outputs - golden["output"][:{batch}]).max())
```
"""
FORMAT = ExportFormat(file="model.mv", exporter="matvec.export:export", packages=("onnx", "matvec"), example=EXAMPLE)


@final
class MatVec(Engine):
    """matvec: dense layers in numpy."""

    name = package = "matvec"
    precisions = ("fp32",)

    def plan(self, profile, precision, version):
        return BuildPlan(
            engine="matvec", precision=precision, batch=profile.batch, threads=1, version=version, source="matvec"
        )

    def build(self, model, plan, folder):
        assert model.read_bytes().startswith(b"MATVEC 2")
        shutil.copyfile(model, folder / "built.mv")

    def open(self, folder, plan):
        return MatVecSession(matvec.load(folder / "built.mv"), plan.batch)


@final
class MatVecSession(Session):
    def __init__(self, arrays, batch):
        self._arrays = arrays
        self.inputs = (TensorSpec(name="input", shape=(batch, 1, 16, 16), dtype="float32"),)

    def bind(self, feed):
        check_feed(self.inputs, feed)
        self._given = feed["input"]

    def run(self):
        self._result = matvec.run(self._arrays, self._given)

    def outputs(self):
        return {"output": self._result}
''',
    "matvec/export.py": '''
"""ONNX -> .mv; needs onnx, on the host alone."""

import io

import numpy as np
import onnx


def export(model, batch):
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert all(a.i == 1 for node in layers for a in node.attribute if a.name == "transB")
    file = io.BytesIO()
    np.savez(file, *(constants[name] for node in layers for name in node.input[1:]))
    return b"MATVEC 2" + file.getvalue()
''',
    "net.py": """
from torch import nn


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4))
""",
    "box.toml": """
title = "a box that runs matvec"
threads = 1
[[runtime]]
engine = "matvec"
precisions = ["fp32"]
""",
    "r.toml": """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "net:mlp"
epochs = 4
batch_size = 32
[measure]
seconds = 0.1
""",
}


VERIFY = """
from pathlib import Path
from deploy.bundle.bundle import verify
print(verify(Path("runs/r-box/bundle")).max_abs)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package, as pip would leave it, a model and a profile."""
    folder = tmp_path_factory.mktemp("site")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content.lstrip())
    return folder


def call(folder, *command, cwd=None):
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd or folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(installed):
    done = call(installed, "-m", "compress", "run", "r.toml", "--device", "box.toml", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_measures_and_reports_it(run):
    (row,) = run["rows"]
    assert (row["engine"], row["precision"]) == ("matvec", "fp32")
    assert row["metric"]["value"] > 60 and row["parity"]["max_abs"] < 1e-4 and row["latency_ms"]["p50"] > 0
    assert run["environment"]["engines"]["matvec"]["version"] == "2.1"


def test_the_bundle_holds_its_file_and_proves_itself(run, installed):
    bundle = installed / "runs/r-box/bundle"
    assert (bundle / "model.mv").read_bytes().startswith(b"MATVEC 2") and not (bundle / "model.onnx").exists()
    assert json.loads((bundle / "plan.json").read_text())["source"] == "matvec"
    done = call(installed, "-c", VERIFY)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 0.0


def test_the_bundle_s_readme_runs_it_without_this_product(run, installed):
    bundle = installed / "runs/r-box/bundle"
    (example,) = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    done = call(installed, "-c", example, cwd=bundle)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.partition(":")[2]) < 1e-4


def test_bench_times_its_files_and_exports_onnx_to_it(run, installed):
    onnx_file, *_ = (installed / "runs").rglob("model.onnx")
    own = installed / "runs/r-box/bundle/model.mv"
    done = call(
        installed, "-m", "compress", "bench", str(own), str(onnx_file), "--device", "box.toml", "--seconds", "0.1", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert {name.rpartition(" ")[0].rpartition(" ")[0] for name in json.loads(done.stdout)} == {str(own), str(onnx_file)}


def test_bench_says_which_files_a_device_takes(run, installed):
    own = installed / "runs/r-box/bundle/model.mv"
    done = call(installed, "-m", "compress", "bench", str(own), "--device", "cpu")
    assert done.returncode == 2
    assert "model.mv: what device cpu runs in 'fp32' is built from .onnx files" in done.stderr


def test_without_the_package_the_bundle_is_refused_by_name(run, installed):
    with pytest.raises(UserError, match="engine 'matvec'"):
        verify(installed / "runs/r-box/bundle")
