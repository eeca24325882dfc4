"""Additive masks of attention: minus infinity is in no range, on any recipe, and what is masked stays without influence."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from compress.data.base import NamedSamples
from compress.methods.quantization import post_training
from compress.methods.quantization.observer import scale_sources
from compress.methods.quantization.post_training import PostTraining
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.run import run_batches
from profiles.quantization import QUANTIZATION

RECIPES = ["x86-vnni", "ort-x86-vnni", "tensorrt", "arm-dotprod"]


class Attention(nn.Module):
    """A block of attention whose mask is added to the scores: 0, or minus infinity."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out, self.head = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, tokens, mask):
        hidden = tokens
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, dim=-1)
        scores = q @ k.transpose(1, 2) / 4
        added = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[:, None]
        hidden = hidden + self.out((scores + added).softmax(-1) @ v)
        return self.head(nn.functional.gelu(hidden[:, 0]))


@pytest.fixture(scope="module")
def exported():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 11, 64)
    inputs = {
        "tokens": random.normal(size=(64, 10, 16)).astype(np.float32),
        "mask": np.arange(10) < lengths[:, None],
    }
    example = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    return to_onnx(capture(Attention().eval(), example)), inputs


@pytest.mark.parametrize("recipe", RECIPES)
def test_ranges_are_finite_and_the_mask_still_masks(exported, recipe):
    model, inputs = exported
    samples = NamedSamples(inputs, np.zeros(64, np.int64))
    found = post_training.quantize_model(model, samples, recipe, PostTraining())
    observed = scale_sources(found.quantize.placement)
    assert observed, "something is quantised"
    ((_, values),) = run_batches(model, observed, [inputs])
    assert all(np.isfinite(values[name]).all() for name in observed)
    if recipe == "arm-dotprod":
        return  # its integers are not this machine's
    session = onnxruntime.InferenceSession(found.onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, inputs)
    other = np.random.default_rng(1).normal(size=inputs["tokens"].shape).astype(np.float32)
    changed = {**inputs, "tokens": np.where(inputs["mask"][..., None], inputs["tokens"], other)}
    np.testing.assert_array_equal(session.run(None, changed)[0], whole)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    assert np.corrcoef(expected.ravel(), whole.ravel())[0, 1] > 0.99
    assert QUANTIZATION[recipe].weight_per_channel
