"""What layers cost in float, asked of the engine that runs int8 here."""

import numpy as np
import onnx
import pytest
import torch

from compress.methods.quantization.post_training import PostTraining, quantize_model
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency import stopwatch
from deploy.qdq.placement import place
from profiles.quantization import QUANTIZATION
from tests.compress.stages.test_prune import placed
from tests.conftest import blob_splits, small_model


@pytest.fixture
def target(context, tmp_path):
    samples = blob_splits().calibration
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(capture(small_model(), [torch.from_numpy(samples.load(np.arange(2)).inputs)])), str(path))
    found = placed(context, path, tmp_path)
    return found.target, found.profile, path, samples


def test_it_is_measured_once_and_then_kept(target, monkeypatch):
    asked, profile, path, samples = target
    recipe = next(r.quantization for r in profile.runtimes if "int8" in r.precisions)
    model = onnx.load(str(path))
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"][:2]
    assert len(place(model, QUANTIZATION[recipe]).weights) > 2
    prices = asked.in_float(layers)
    assert prices is not None
    assert prices.whole_ms > 0
    assert set(prices.longer_ms) == set(layers)
    monkeypatch.setattr(stopwatch, "RemoteWorker", None)
    assert asked.in_float(layers) == prices, "no engine is built again"


def test_the_report_says_what_it_is(target):
    asked, _, path, samples = target
    options = PostTraining(biases=False, mixed=True)
    found = quantize_model(onnx.load(str(path)), samples, "x86-no-vnni", options, price=asked.in_float)
    reasons = [reason for _, reason in found.quantize.placement.kept_float]
    assert reasons
    assert all("and in float the model takes" in reason for reason in reasons)
