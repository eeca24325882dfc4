"""Where engine and module part first is found by running both with intermediate outputs, on the real runtimes."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from deploy.devices import device
from deploy.engines import engine
from deploy.export.divergence import first_divergence
from deploy.export.to_onnx import capture, to_onnx
from deploy.worker.client import RemoteWorker
from profiles.device import load

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    return to_onnx(capture(nn.Sequential(*layers).eval(), [torch.from_numpy(IMAGES[:2])]))


def on(name, precision, folder):
    """Builds and runs a file on an engine, as a run does."""

    def run(model, inputs):
        onnx.save(model, str(folder / "opened.onnx"))
        runtime = engine(name)
        with RemoteWorker(device("local")) as worker:
            plan = runtime.plan(load("cpu"), precision, runtime.affinity().version)
            worker.build(folder / "opened.onnx", plan, folder / "engine")
            worker.open(folder / "engine")
            return worker.infer({"input": inputs})

    return run


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_first_tensor_is_named_and_not_those_behind_it(plain, name, tmp_path):
    second = [node for node in plain.graph.node if node.op_type == "Conv"][1]
    broken = onnx.ModelProto()
    broken.CopyFrom(plain)
    for tensor in broken.graph.initializer:
        if tensor.name == second.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    found = first_divergence(plain, broken, on(name, "fp32", tmp_path), IMAGES[:2], "fp32")
    assert found is not None and found.relative_error > 0.5
    assert found.tensor == second.output[0]
    assert second.name in str(found) and second.output[0] in str(found)


def test_a_good_int8_file_parts_nowhere(plain, tmp_path):
    samples = ArraySamples(IMAGES, np.zeros(16, int))
    int8 = post_training.quantize_model(plain, samples, "x86-no-vnni", post_training.PostTraining()).onnx()
    assert first_divergence(plain, int8, on("openvino", "int8", tmp_path), IMAGES[:2], "int8") is None
