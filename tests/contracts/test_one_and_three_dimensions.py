"""Convolutions over time and over volumes are pruned, factorised, quantised and trained as those over images."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import compress
from compress.data.base import ArraySamples
from compress.methods.quantization.post_training import PostTraining, quantize_model
from compress.training.muon import hidden_kernels
from deploy.export.to_onnx import capture, to_onnx

SHAPES = {1: (2, 32), 3: (1, 4, 6, 6)}


def network(dimensions, width=32):
    conv, norm = getattr(nn, f"Conv{dimensions}d"), getattr(nn, f"BatchNorm{dimensions}d")
    pool = getattr(nn, f"AdaptiveAvgPool{dimensions}d")
    torch.manual_seed(0)
    module = nn.Sequential(
        conv(SHAPES[dimensions][0], width, 3, padding=1),
        norm(width),
        nn.ReLU(),
        conv(width, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        conv(width, width, 1),
        nn.ReLU(),
        pool(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )
    for layer in module:
        if isinstance(layer, norm):
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module.eval()


@pytest.fixture(params=SHAPES)
def case(request):
    samples = np.random.default_rng(0).normal(size=(48, *SHAPES[request.param])).astype(np.float32)
    return network(request.param), samples


def test_it_is_pruned_and_factorised(case):
    module, samples = case
    narrow = compress.prune(module, samples, ratio=0.4)
    assert narrow[3].weight.shape[0] < 32 and narrow[6].weight.shape[1] < 32
    with torch.no_grad():
        assert narrow(torch.from_numpy(samples)).shape == (48, 3)


def test_it_is_quantised_with_learned_rounding_and_biases(case):
    module, samples = case
    if samples.ndim == 5:
        pytest.skip("its layers are too large to unfold: rounded to nearest, as below")
    model = to_onnx(capture(module, torch.from_numpy(samples[:2])))
    data = ArraySamples(samples, np.full(len(samples), -1))
    with torch.no_grad():
        expected = module(torch.from_numpy(samples)).numpy()

    def error(rounding):
        options = PostTraining(ranges="minmax", rounding=rounding, biases=False)
        made = quantize_model(model, data, "x86-vnni", options).onnx()
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        return float(np.square(session.run(None, {"input": samples})[0] - expected).mean())

    assert error("learned") < error("nearest")


def test_what_is_quantised_answers_alike(case, tmp_path):
    module, samples = case
    path = compress.export(compress.quantize(module, samples), tmp_path / "m.onnx", samples)
    layers = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    made = {name for node in onnx.load(path).graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert all(node.input[0] in made and node.input[1] in made for node in layers), "all of them in integers"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(torch.from_numpy(samples)).numpy()
    assert np.corrcoef(session.run(None, {"input": samples})[0].ravel(), expected.ravel())[0, 1] > 0.99


def test_muon_turns_their_kernels(case):
    module, _ = case
    assert [tuple(kernel.shape)[:2] for kernel in hidden_kernels(module)] == [(32, 32), (32, 32)]
