"""ExecuTorch: a .pte file against the module it was made of, in its own runtime; skipped where that is not installed."""

import platform
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from deploy.devices import device
from deploy.engines import EngineError, engine
from deploy.export.program_pairs import QuantizationSpec
from deploy.export.to_executorch import to_coreml_pte, to_pte, to_vulkan_pte
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.qdq.insert import Scales
from deploy.worker.client import RemoteWorker
from profiles.device import load
from profiles.quantization import QUANTIZATION
from tests.deploy.qdq.test_recipes import MODELS
from tests.zoo import build

pytestmark = [
    pytest.mark.slow,  # its imports alone take seconds
    pytest.mark.skipif(
        find_spec("executorch") is None, reason="executorch is not installed; pip install -e '.[executorch]'"
    ),
]
XNNPACK = QUANTIZATION["xnnpack"]
IMAGES = np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32)


class Small(nn.Module):
    """A convolution, a residual add, a ReLU6, a pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 4)

    def forward(self, x):
        x = functional.relu6(self.a(x))
        x = functional.relu(self.b(x) + x)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def integers(model, program):
    found = post_training.calibrate(to_onnx(program), ArraySamples(IMAGES, np.zeros(64, np.int64)), "xnnpack", "minmax")
    return QuantizationSpec(
        placement=found.placement, scales=Scales(activations=found.activations, weights={}), recipe=XNNPACK
    )


def expected(module):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(IMAGES)).numpy()


def run(pte, folder, precision):
    """The outputs of a .pte file, built and opened by a worker as the pipeline does it."""
    plan = engine("executorch").plan(load("cpu"), precision, engine("executorch").affinity().version)
    (folder / "given.pte").write_bytes(pte)
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / "given.pte", plan, folder / "engine")
        opened = worker.open(folder / "engine")
        assert opened["inputs"] == [{"name": "input", "shape": [1, 3, 16, 16], "dtype": "float32"}]
        outputs = worker.infer({"input": IMAGES})
        worker.warm({"input": IMAGES})
        assert len(worker.time(0.01)) >= 11
    return outputs["output"]


def delegated(pte):
    """How many pieces XNNPACK runs, and the names of the portable operators that run besides."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    (plan,) = deserialize_pte_binary(pte).program.execution_plan
    return len(plan.delegates), [f"{operator.name}.{operator.overload}" for operator in plan.operators]


def test_a_program_in_fp32_and_int8_against_its_module(tmp_path):
    module = Small().eval()
    program = capture(module, [torch.randn(2, 3, 16, 16)])
    plain, whole = to_pte(program, 1), to_pte(program, 1, integers(module, program))
    for pte in (plain, whole):
        assert delegated(pte) == (1, []), "XNNPACK runs all of it in one piece"
    assert len(whole) < len(plain), "int8 weights"
    (tmp_path / "8").mkdir()
    found = parity(expected(module), run(plain, tmp_path, "fp32"))
    assert found.max_abs < 1e-5
    found = parity(expected(module), run(whole, tmp_path / "8", "int8"))
    assert found.max_abs > 1e-5, "nothing was quantised"
    assert found.cosine > 0.99


@pytest.mark.parametrize("name", sorted({*MODELS, "c2f", "shuffle"}))
def test_every_kind_of_model_in_int8(name, tmp_path):
    module = (MODELS[name]() if name in MODELS else build(name)).eval()
    program = capture(module, [torch.randn(2, 3, 16, 16)])
    how = integers(module, program)
    fake = QuantizedProgram(program, how.placement, how.scales, XNNPACK)
    got = run(to_pte(program, 1, how), tmp_path, "int8")
    assert parity(expected(fake), got).cosine > 0.999, "what was trained is what runs"


def test_a_file_that_is_no_program_is_refused(tmp_path):
    (tmp_path / "broken.pte").write_bytes(b"not a program" * 100)
    plan = engine("executorch").plan(load("cpu"), "fp32", "1")
    with RemoteWorker(device("local")) as worker, pytest.raises(EngineError, match="ExecuTorch 1 refused the model"):
        worker.build(tmp_path / "broken.pte", plan, tmp_path / "engine")


@pytest.mark.parametrize(("name", "exporter"), [("CoreMLBackend", to_coreml_pte), ("VulkanBackend", to_vulkan_pte)])
def test_files_for_core_ml_and_vulkan_hold_the_backends_part(name, exporter):
    """Nothing here runs them: the file names the backend, and its runtime says what is missing."""
    if name == "CoreMLBackend" and find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    content = exporter(capture(Small().eval(), [torch.from_numpy(IMAGES[:2])]), 1)
    assert name.encode() in content and b"XnnpackBackend" not in content

    class Sorted(nn.Module):
        def forward(self, x):
            return torch.ops.aten.bincount(x.flatten(1).argmax(1), None, 4).float().reshape(1, 4).expand(len(x), 4)

    with pytest.raises(EngineError, match="takes nothing of the model|cannot lower the model"):
        exporter(capture(Sorted().eval(), [torch.from_numpy(IMAGES[:2])]), 2)


def test_backends_that_are_not_here_say_so():
    if platform.system() == "Linux":
        assert engine("executorch-coreml").affinity().reason == "Core ML is Apple's; this is Linux"
    able = engine("executorch-vulkan").affinity()
    assert able.score >= 0 or "no Vulkan here" in able.reason or "has no VulkanBackend" in able.reason
