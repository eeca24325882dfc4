"""Bias correction: the mean of a quantised layer's outputs is the float layer's again."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from tests.conftest import blob_splits, small_model


def outputs(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def quantised(module, samples, recipe="x86-no-vnni"):
    model = to_onnx(capture(module, [torch.from_numpy(samples.images[:2])]))
    found = post_training.calibrate(model, samples, recipe, "minmax")
    return model, post_training.apply(model, found), post_training.apply(model, found, samples)


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_gives_the_float_layer_s_mean_on_every_channel(bias):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    samples = ArraySamples(rng.uniform(0, 1, (40, 3, 8, 8)).astype(np.float32), np.zeros(40, int))
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=bias)).eval()
    expected, plain, corrected = (outputs(m, samples.images).mean((0, 2, 3)) for m in quantised(module, samples))
    assert np.abs(plain - expected).max() > 1e-4, "rounding shifts the means, or this test says nothing"
    np.testing.assert_allclose(corrected, expected, atol=1e-5)


def test_a_linear_layer_too():
    torch.manual_seed(0)
    samples = ArraySamples(np.random.default_rng(1).uniform(0, 1, (64, 3, 4, 4)).astype(np.float32), np.zeros(64, int))
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    expected, plain, corrected = (outputs(m, samples.images).mean(0) for m in quantised(module, samples))
    assert np.abs(plain - expected).max() > 1e-4
    np.testing.assert_allclose(corrected, expected, atol=1e-5)


def test_a_whole_network_comes_nearer_and_nothing_but_biases_changes():
    samples = blob_splits().calibration
    model, plain, corrected = quantised(small_model(), samples)
    expected = outputs(model, samples.images)
    off = [np.abs(outputs(m, samples.images) - expected).mean() for m in (plain, corrected)]
    assert off[1] < off[0]
    assert [n.op_type for n in plain.graph.node] == [n.op_type for n in corrected.graph.node]
    before, after = Graph(plain), Graph(corrected)
    biases = {n.input[2] for n in before.nodes if n.op_type in ("Conv", "Gemm")}
    for tensor in plain.graph.initializer:
        same = np.array_equal(before.constant(tensor.name), after.constant(tensor.name))
        assert same or tensor.name in biases, tensor.name
