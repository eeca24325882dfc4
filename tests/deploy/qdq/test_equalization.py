"""Cross-layer equalisation: the network computes what it did, and its channels have ranges alike."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import run_batches
from deploy.qdq.equalization import equalize, layer_pairs


@pytest.fixture(autouse=True)
def seed():
    """The same weights whatever ran before: the bounds below are of how far equalisation can go with these."""
    torch.manual_seed(0)


def outputs(model, inputs):
    return next(run_batches(model, ["output"], [inputs]))[1]["output"]


def uneven(*layers):
    torch.manual_seed(0)
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                layer.weight *= torch.logspace(-2, 2, len(layer.weight)).reshape(-1, 1, 1, 1)
    return to_onnx(capture(module, [torch.randn(2, 3, 8, 8)]))


def test_nothing_changes_but_the_ranges_of_channels_through_a_depthwise_layer_too():
    model = uneven(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    made = equalize(model)
    assert len(list(layer_pairs(Graph(model)))) == 2
    inputs = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(made, inputs), outputs(model, inputs), rtol=1e-3, atol=1e-3)
    made_by_first = np.abs(Graph(made).constant(Graph(made).nodes[0].input[1])).max(axis=(1, 2, 3))
    assert made_by_first.max() / made_by_first.min() < 1000, "was 10,000 in two of three layers"


def test_what_saturates_or_is_read_twice_is_left_alone():
    assert not list(layer_pairs(Graph(uneven(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1)))))

    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y) + y

    assert not list(layer_pairs(Graph(to_onnx(capture(Fork().eval(), [torch.randn(2, 3, 8, 8)])))))
