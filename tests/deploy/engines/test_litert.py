"""LiteRT: a .tflite file against the module it was made of, in its own runtime; skipped where that is not installed."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from deploy.devices import device
from deploy.engines import EngineError, engine
from deploy.engines.litert import _dequantized, _number, _quantized
from deploy.export import to_litert
from deploy.export.program_pairs import QuantizationSpec
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.qdq.insert import Scales
from deploy.worker.client import RemoteWorker
from profiles.device import load
from profiles.quantization import QUANTIZATION
from tests.deploy.qdq.test_recipes import MODELS
from tests.zoo import build

IMAGES = np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32)
needs_litert = pytest.mark.skipif(find_spec("litert_torch") is None, reason="pip install -e '.[litert]'")


def test_integers_of_an_input_and_floats_of_an_output_by_hand():
    tensor = {"quantization": (0.5, -3), "dtype": np.int8}
    integers = _quantized(np.asarray([0.0, 1.0, -0.6, 1000.0, -1000.0], np.float32), tensor)
    assert integers.dtype == np.int8 and integers.tolist() == [-3, -1, -4, 127, -128]
    assert _dequantized(integers[:3], tensor).tolist() == [0.0, 1.0, -0.5]
    plain = {"quantization": (0.0, 0), "dtype": np.float32}
    assert _quantized(IMAGES, plain) is IMAGES and _dequantized(IMAGES, plain) is IMAGES
    assert _number("serving_default_args_12:0") == 12 and _number("x") == 0


@pytest.mark.slow  # it captures a program
def test_a_conversion_that_fails_says_its_last_words(monkeypatch):
    program = capture(torch.nn.Linear(3, 2), [torch.zeros(2, 3)])
    monkeypatch.setattr(to_litert, "_is_installed", lambda: True)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineError, match=r"LiteRT cannot convert the model \(exit 1\): it said nothing"):
        to_litert.to_litert(program, 1)


@pytest.mark.slow
@needs_litert
@pytest.mark.parametrize("name", sorted({*MODELS, "c2f", "shuffle"}))
def test_every_kind_of_model_in_fp32_and_int8(name, tmp_path):
    torch.manual_seed(0)
    module = (MODELS[name]() if name in MODELS else build(name)).eval()
    program = capture(module, [torch.randn(2, 3, 16, 16)])
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    found = post_training.calibrate(to_onnx(program), samples, "litert", "minmax")
    recipe, scales = QUANTIZATION["litert"], Scales(activations=found.activations, weights={})
    how = QuantizationSpec(placement=found.placement, scales=scales, recipe=recipe)
    with torch.no_grad():
        answer = module(torch.from_numpy(IMAGES)).numpy()
        fake = QuantizedProgram(program, found.placement, scales, recipe).eval()(torch.from_numpy(IMAGES)).numpy()
    outputs = {}
    for precision, integers in {"fp32": None, "int8": how}.items():
        plan = engine("litert").plan(load("cpu"), precision, "1")
        (tmp_path / "given.tflite").write_bytes(to_litert.to_litert(program, 1, integers))
        with RemoteWorker(device("local")) as worker:
            worker.build(tmp_path / "given.tflite", plan, tmp_path / precision)
            opened = worker.open(tmp_path / precision)
            assert opened["inputs"] == [{"name": "input", "shape": [1, 3, 16, 16], "dtype": "float32"}]
            outputs[precision] = worker.infer({"input": IMAGES})["output"]
            worker.warm({"input": IMAGES})
            assert len(worker.time(0.01)) >= 11
    assert parity(answer, outputs["fp32"]).max_abs < 1e-5
    assert parity(answer, outputs["int8"]).max_abs > 1e-5, "nothing was quantised"
    assert parity(fake, outputs["int8"]).cosine > 0.999, "the ranges of the pairs are what runs"


@pytest.mark.slow
@needs_litert
def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"not a model" * 100)
    plan = engine("litert").plan(load("cpu"), "fp32", "1")
    with RemoteWorker(device("local")) as worker, pytest.raises(EngineError, match="LiteRT 1 refused the model"):
        worker.build(tmp_path / "broken.tflite", plan, tmp_path / "engine")
