"""Points learned by gradient: nearer than where they began, and what is stored is what the layer has."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.methods.packing.points import Points, attach_points, bits_by_gradient, detach_points, gradient_norms


def test_a_point_s_gradient_is_that_of_its_weights_by_hand():
    weight = torch.tensor([0.0, 1.0, 3.0, 4.0])
    points = Points(weight, 1)
    with torch.no_grad():
        points.points.copy_(torch.tensor([0.0, 1.0]))
    made = points(weight)
    assert made.tolist() == [0, 0, 4, 4]
    made.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert points.points.grad.tolist() == [12.0, 28.0], "span 4 times the sums 1 + 2 and 3 + 4"


def test_learned_points_come_nearer_and_decode_to_the_layer_s_weights():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.randn(256, 16) * torch.logspace(-1, 1, 16)  # so that some weights count more than others
    expected = module(inputs).detach()

    def loss():
        return (module(inputs) - expected).square().mean()

    names = ["0.weight", "2.weight"]
    attach_points(module, dict.fromkeys(names, 2))
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    at_first = loss().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    packed = detach_points(module, names)
    assert loss().item() < 0.8 * at_first
    for name, found in packed.items():
        np.testing.assert_array_equal(found.unpack(), module.get_parameter(name).detach().numpy())
        assert len(found.points) == 4
    assert set(dict(module.named_parameters())) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_bits_by_gradient():
    """Points of 4: 8 + 32 / 4 * (3, 1, 0, 0) = 32, 16, 8, 8; a bit is left over. Of 2: 2 + 16 * norm / 18, logarithms
    3.19, 2.47, 1.92, 1.53 (three times), 1.29 (twice): one more for 0.92, 0.53 and 0.47. Sharing bits instead gave
    the first layer 5 and five layers one bit."""
    assert bits_by_gradient({"a": 3.0, "b": 1.0, "c": 0.0, "d": 0.0}, 4) == {"a": 6, "b": 4, "c": 3, "d": 3}
    norms = dict(zip("abcdefgh", (8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5), strict=True))
    assert [*bits_by_gradient(norms, 2).values()] == [3, 3, 2, 2, 2, 2, 1, 1]
    assert set(bits_by_gradient(dict.fromkeys("abc", 0.0), 3).values()) == {3}
    for bits in (2, 4, 7):
        found = bits_by_gradient({str(i): float(i * i) for i in range(9)}, bits)
        assert sum(found.values()) == 9 * bits and max(found.values()) <= 8
    with pytest.raises(ValueError, match="2 on average"):
        bits_by_gradient({"a": 1.0}, 1)


def test_a_weight_that_may_moves_on_to_another_point_and_keeps_its_range_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, 3.0, 4.0]]))
    attach_points(layer, {"weight": 1}, points_alone=False)
    assert layer.weight.tolist() == [[0.5, 0.5, 3.5, 3.5]], "the points of least error"
    held = layer.parametrizations["weight"]
    layer.weight.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert held.original.grad.tolist() == [[1, 2, 3, 4]] and held[0].points.grad.tolist() == [12.0, 28.0]
    with torch.no_grad():
        held.original[0, 1] = 9.0
    packed = detach_points(layer, ["weight"])["weight"]
    assert packed.unpack().tolist() == layer.weight.tolist() == [[0.5, 3.5, 3.5, 3.5]]
    assert (packed.low.tolist(), packed.span.tolist()) == ([0.0], [4.0])


def test_norms_of_gradients():
    layer = nn.Linear(2, 1, bias=False)
    losses = (layer(torch.tensor([[3.0, 4.0]])).sum() for _ in range(2))
    assert gradient_norms(layer, ["weight"], losses) == {"weight": 10.0}
