"""MNN: its files against the ONNX model that they were made of; skipped where it is not installed."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from deploy.devices import device
from deploy.engines import EngineError, engine
from deploy.export import to_mnn
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.qdq.strip import strip
from deploy.worker.client import RemoteWorker
from profiles.device import load
from tests.conftest import randomise_batch_norms
from tests.deploy.engines.small import IMAGES, expected, quantised, small
from tests.zoo import ZOO, build

needs_mnn = pytest.mark.skipif(find_spec("MNN") is None, reason="MNN is not installed; pip install -e '.[mnn]'")


def test_a_layer_is_told_by_what_it_makes_behind_its_activation():
    stripped = strip(quantised("tensorrt"))  # symmetric too, its products in integers
    assert "fc" in {layer.node for layer in stripped.layers}
    (algorithm,) = to_mnn.quantization(stripped)["algo"]
    layers = {entry["output"][0]["name"]: entry for entry in algorithm["quantParams"]["layer"]}
    assert set(layers) <= {"a2", "b1", "d2"} and "output" not in layers, "a product stays float"
    layers = {
        entry["output"][0]["name"]: entry
        for entry in to_mnn.quantization(strip(quantised("mnn")))["algo"][0]["quantParams"]["layer"]
    }
    assert set(layers) == {"a2", "b1", "d2"}
    stripped = strip(quantised("mnn"))
    scale, zero_point = stripped.activations["a2"]
    assert layers["b1"]["input"] == [
        {"name": "a2", "bits": 8, "scales": [scale], "zeroPoint": zero_point, "clampMin": -128, "clampMax": 127}
    ]
    assert zero_point == 0 and len(layers["b1"]["weight"][0]["scales"]) == 8


def test_without_mnn_its_files_are_not_made(monkeypatch):
    monkeypatch.setattr(to_mnn.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(to_mnn.UserError, match="MNN, whose converter makes its files, is not installed here"):
        to_mnn.to_mnn(small(), 1)


@needs_mnn
def test_each_precision_against_the_model(tmp_path):
    files = {"fp32": to_mnn.to_mnn(small(), 2), "int8": to_mnn.to_mnn(quantised("mnn"), 2)}
    files["fp16"] = to_mnn.to_half_mnn(small(), 2)
    found = {}
    with RemoteWorker(device("local")) as worker:
        for precision, content in files.items():
            plan = engine("mnn").plan(load("cpu"), precision, "1")
            (tmp_path / plan.model_file).write_bytes(content)
            worker.build(tmp_path / plan.model_file, plan, tmp_path / precision)
            opened = worker.open(tmp_path / precision)
            assert opened["inputs"] == [{"name": "input", "shape": [1, 3, 8, 8], "dtype": "float32"}]
            found[precision] = parity(expected(small()), worker.infer({"input": IMAGES})["output"])
            worker.warm({"input": IMAGES})
            assert len(worker.time(0.01)) >= 11
        (tmp_path / "broken.mnn").write_bytes(b"not a model" * 100)
        with pytest.raises(EngineError, match=r"MNN 1 refused the model|worker"):
            worker.build(tmp_path / "broken.mnn", engine("mnn").plan(load("cpu"), "fp32", "1"), tmp_path / "broken")
    assert found["fp32"].max_abs < 1e-5
    assert 1e-5 < found["fp16"].max_abs < 0.01 and found["fp16"].cosine > 0.9999
    assert found["int8"].max_abs > 1e-3 and found["int8"].cosine > 0.999
    assert len(files["int8"]) < len(files["fp32"]), "int8 weights"


@pytest.mark.slow
@needs_mnn
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_kind_of_model(name, tmp_path):
    torch.manual_seed(0)
    module = build(name).eval()
    randomise_batch_norms(module)
    images = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)
    model = to_onnx(capture(module, [torch.randn(2, 3, 16, 16)]))
    found = post_training.calibrate(model, ArraySamples(images, np.zeros(16, np.int64)), "mnn", "minmax")
    with torch.no_grad():
        answer = module(torch.from_numpy(images))
    answer = next(iter(answer.values())) if isinstance(answer, dict) else answer[0] if isinstance(answer, tuple) else answer
    runtime, cosines = engine("mnn"), {"fp32": 1 - 1e-9, "fp16": 0.99999, "int8": 0.998}
    for precision, least in cosines.items():
        plan = runtime.plan(load("cpu"), precision, "1")
        content = plan.format.export()(post_training.apply(model, found) if precision == "int8" else model, 1)
        (tmp_path / precision).mkdir()
        (tmp_path / plan.model_file).write_bytes(content)
        runtime.build(tmp_path / plan.model_file, plan, tmp_path / precision)
        session = runtime.open(tmp_path / precision, plan)
        outputs = np.concatenate([session.infer({"input": images[i : i + 1]})["output"] for i in range(len(images))])
        assert parity(answer.numpy(), outputs).cosine > least, precision
