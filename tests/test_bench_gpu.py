"""``make gpu``: all that comes before the GPU, and one line where there is none."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from compress.data.base import ArraySamples, Splits
from compress.models.resnet import resnet
from deploy.files.confined import python_environment
from tests.bench import gpu
from tests.conftest import ROOT, randomise_batch_norms

VERSIONS = {"8.6.1": False, "10.3.0": False, "10.13.3.9": True, "11.4.0.106": True}
QUICK = ("8.6.1", "11.4.0.106")
"""Versions of TensorRT, and whether their networks are strongly typed."""


def test_without_a_gpu_it_says_so_in_one_line_and_fails():
    if not (why := gpu.obstacle()):
        pytest.skip("there is a GPU with TensorRT")
    command = [sys.executable, "-m", "tests.bench", "gpu"]
    environment = {**python_environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip().splitlines()) == (1, "", [why])


@pytest.fixture(scope="module")
def splits():
    images = np.random.default_rng(0).normal(size=(16, 1, 32, 32)).astype(np.float32)
    part = ArraySamples(images, np.arange(16) % 10)
    return Splits(train=part, calibration=part, validation=part, test=part, classes=tuple("0123456789"))


def kinds(content):
    model = onnx.load_from_string(content)
    halves = {tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer if len(tensor.dims) == 4}
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node), halves


@pytest.mark.parametrize("version", [v if v in QUICK else pytest.param(v, marks=pytest.mark.slow) for v in VERSIONS])
def test_every_form_is_the_file_that_the_version_builds_by_its_own_rules(version, splits):
    torch.manual_seed(0)
    module = resnet(blocks=1, in_channels=1).eval()
    randomise_batch_norms(module)
    made = {form.name: form for form in gpu.forms(module, splits, version)}
    assert list(made) == ["fp32", "fp16", "int8", "mixed"]
    pairs = {name: kinds(form.content)[0] for name, form in made.items()}
    assert pairs["fp32"] == pairs["fp16"] == 0 < pairs["mixed"] <= pairs["int8"]
    typed = VERSIONS[version]
    assert kinds(made["fp16"].content)[1] == {typed}, "a typed network's precision is the file's own"
    assert {form.plan.options["flags"] for form in made.values()} == ({""} if typed else {"", "FP16", "FP16 INT8"})
    assert all(form.plan.version == version for form in made.values())


def test_figures_say_time_against_fp32_parity_and_answers():
    found = {"fp32": (1.0, 95.0), "int8": (0.98, 94.0)}
    fp32, int8 = gpu._figures("net", found, {"fp32": 2.0, "int8": 0.5})
    assert fp32.met and fp32.measured == "2.000 ms, cosine 1.00000, top-1 95.0 %"
    assert not int8.met and int8.measured == "0.500 ms, 4.00x fp32, cosine 0.98000, top-1 94.0 %"
