"""NCNN: its files against the ONNX model that they were made of; skipped where it is not installed."""

import io
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from deploy.devices import device
from deploy.engines import EngineError, engine
from deploy.export.ncnn_int8 import HALF_MARK, INT8_MARK, calibration_table, with_integers
from deploy.export.to_ncnn import to_half_ncnn, to_ncnn
from deploy.export.to_onnx import capture, to_onnx
from deploy.measure.parity import parity
from deploy.qdq.strip import IntegerLayer
from deploy.worker.client import RemoteWorker
from profiles.device import load
from tests.conftest import randomise_batch_norms
from tests.deploy.engines.small import IMAGES, expected, quantised, small
from tests.zoo import ZOO, build

needs_ncnn = pytest.mark.skipif(
    find_spec("ncnn") is None or find_spec("pnnx") is None,
    reason="ncnn or pnnx is not installed; pip install -e '.[ncnn]'",
)
PARAM = """7767517
3 3
Input                    in0                      0 1 in0
Convolution              conv_0                   1 1 in0 1 0=1 1=2 11=1 4=0 5=1 6=2
Convolution              conv_1                   1 1 1 out0 0=2 1=1 11=1 5=0 6=2
"""


def floats(*values):
    return np.asarray(values, np.float32).tobytes()


def integer(values, scale, *, input_scale):
    return IntegerLayer(
        node="n",
        weight=np.asarray(values, np.int8).reshape(len(scale), -1, 1, 1),
        weight_scale=np.asarray(scale, np.float32),
        axis=0,
        input_scale=input_scale,
        input_zero_point=0,
    )


def test_two_layers_become_integers_by_hand():
    """Weights 4 and -6 of scale 1/2 are 2 and -3; the second layer reads with scale 1/4, so the first multiplies by 4."""
    first, second = integer([4, -6], [0.5], input_scale=0.125), integer([1, 2], [1.0, 0.25], input_scale=0.25)
    weights = bytes(4) + floats(2, -3) + floats(7) + bytes(4) + floats(1, 0.5)
    text, made, layers = with_integers(PARAM, weights, [first, second])
    mark = INT8_MARK.to_bytes(4, "little")
    assert made == (
        (mark + bytes([4, 250]) + bytes(2) + floats(7) + floats(2) + floats(8) + floats(4))
        + (mark + bytes([1, 2]) + bytes(2) + floats(1, 4) + floats(4))
    )
    assert "8=101" in text.splitlines()[3] and "8=1" in text.splitlines()[4].split()
    assert calibration_table(layers) == "conv_0_param_0 2\nconv_1_param_0 1 4\nconv_0 8\nconv_1 4\n"


def test_weights_that_are_not_where_they_should_be_are_told():
    first = integer([4, -6], [0.5], input_scale=0.125)
    half = HALF_MARK.to_bytes(4, "little")
    with pytest.raises(EngineError, match="layer conv_0 \\(Convolution\\) are not where"):
        with_integers(PARAM, half + floats(2, -3) + floats(7) + bytes(4) + floats(1, 0.5), [first])
    with pytest.raises(EngineError, match="32 bytes and 28 are known"):
        with_integers(PARAM, bytes(4) + floats(2, -3) + floats(7) + bytes(4) + floats(1, 0.5, 9), [first])


def run(content, folder, precision):
    """The outputs of a file on IMAGES, built and opened by a worker as the pipeline does it."""
    plan = engine("ncnn").plan(load("cpu"), precision, "1")
    (folder / plan.model_file).write_bytes(content)
    with RemoteWorker(device("local")) as worker:
        worker.build(folder / plan.model_file, plan, folder / precision)
        assert worker.open(folder / precision)["inputs"] == [{"name": "input", "shape": [1, 3, 8, 8], "dtype": "float32"}]
        outputs = worker.infer({"input": IMAGES})
        worker.warm({"input": IMAGES})
        assert len(worker.time(0.01)) >= 11
    return outputs["output"]


@needs_ncnn
def test_each_precision_against_the_model(tmp_path):
    plain, whole = to_ncnn(small(), 1), to_ncnn(quantised("ncnn"), 1)
    assert plain == to_ncnn(small(), 1), "the same model makes the same bytes"
    found = {
        "fp32": parity(expected(small()), run(plain, tmp_path, "fp32")),
        "bf16": parity(expected(small()), run(plain, tmp_path, "bf16")),
        "fp16": parity(expected(small()), run(to_half_ncnn(small(), 1), tmp_path, "fp16")),
        "int8": parity(expected(quantised("ncnn")), run(whole, tmp_path, "int8")),
    }
    assert found["fp32"].max_abs < 1e-5
    assert 1e-5 < found["fp16"].max_abs < 0.01 and found["fp16"].cosine > 0.9999
    assert found["bf16"].max_abs > 1e-5 and found["bf16"].cosine > 0.999
    assert found["int8"].cosine > 0.9999, "the pairs' integers and ranges are what runs"
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        lines = archive.read("model.param").decode().splitlines()
        assert sum("8=1" in line.split() or "8=101" in line.split() for line in lines) == 4, "all four layers"
        assert len(archive.read("model.table").decode().splitlines()) == 8


@needs_ncnn
def test_a_file_that_is_not_ours_or_of_unknown_layers_is_refused(tmp_path):
    plan = engine("ncnn").plan(load("cpu"), "fp32", "1")
    (tmp_path / "broken.ncnn").write_bytes(b"not a zip" * 100)
    with zipfile.ZipFile(tmp_path / "unknown.ncnn", "w") as archive:
        archive.writestr("model.param", "7767517\n2 2\nInput in0 0 1 in0\nNoSuchLayer no_1 1 1 in0 out0\n")
        archive.writestr("model.bin", "")
        archive.writestr("model.json", "{}")
    with RemoteWorker(device("local")) as worker:
        with pytest.raises(EngineError, match="NCNN 1 refused the model: broken.ncnn is no file of ours"):
            worker.build(tmp_path / "broken.ncnn", plan, tmp_path / "one")
        with pytest.raises(EngineError, match="NCNN 1 refused the model: layer NoSuchLayer not exists"):
            worker.build(tmp_path / "unknown.ncnn", plan, tmp_path / "two")


@pytest.mark.slow
@needs_ncnn
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_kind_of_model(name, tmp_path):
    torch.manual_seed(0)
    module = build(name).eval()
    randomise_batch_norms(module)
    images = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)
    model = to_onnx(capture(module, [torch.randn(2, 3, 16, 16)]))
    found = post_training.calibrate(model, ArraySamples(images, np.zeros(16, np.int64)), "ncnn", "minmax")
    with torch.no_grad():
        answer = module(torch.from_numpy(images))
    answer = next(iter(answer.values())) if isinstance(answer, dict) else answer[0] if isinstance(answer, tuple) else answer
    runtime, cosines = engine("ncnn"), {"fp32": 1 - 1e-9, "fp16": 0.99999, "int8": 0.999}
    for precision, least in cosines.items():
        plan = runtime.plan(load("cpu"), precision, "1")
        content = plan.format.export()(post_training.apply(model, found) if precision == "int8" else model, 1)
        (tmp_path / precision).mkdir()
        (tmp_path / plan.model_file).write_bytes(content)
        runtime.build(tmp_path / plan.model_file, plan, tmp_path / precision)
        session = runtime.open(tmp_path / precision, plan)
        outputs = np.concatenate([session.infer({"input": images[i : i + 1]})["output"] for i in range(len(images))])
        assert parity(answer.numpy(), outputs).cosine > least, precision
