import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.methods.low_rank.factorise import factors, kinds, multiplies, relative_error, skeleton


def test_which_layers_have_factors():
    assert kinds(nn.Linear(4, 4)) == ("svd",)
    assert kinds(nn.Conv2d(4, 4, 1)) == ("svd",)
    assert kinds(nn.Conv2d(4, 4, 3)) == ("spatial", "tucker2")
    assert kinds(nn.Conv2d(4, 4, 3, groups=4)) == ()
    assert kinds(nn.Conv2d(4, 4, 3, padding_mode="reflect")) == ()
    assert kinds(nn.BatchNorm2d(4)) == ()


LAYERS = [
    nn.Linear(12, 7),
    nn.Linear(7, 12, bias=False),
    nn.Conv2d(6, 9, 1, stride=2),
    nn.Conv2d(6, 9, 3, stride=2, padding=1),
    nn.Conv2d(6, 9, (3, 5), padding=(2, 1), dilation=(2, 1)),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_full_rank_factors_are_the_layer(layer):
    inputs = torch.randn(2, layer.in_features) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 11, 11)
    for kind in kinds(layer):
        rank = 64 if kind == "tucker2" else min(layer.weight.flatten(1).shape)
        if kind == "spatial":
            rank = min(6 * layer.kernel_size[0], 9 * layer.kernel_size[1])
        if kind == "tucker2":
            continue  # its two ranks are one number here, so it is exact only for square layers
        made = factors(layer, kind, rank)
        torch.testing.assert_close(made(inputs), layer(inputs), atol=1e-4, rtol=1e-4)
        assert relative_error(layer, kind, rank) < 1e-5


def test_full_rank_tucker2_is_the_layer():
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    inputs = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(factors(layer, "tucker2", 8)(inputs), layer(inputs), atol=1e-4, rtol=1e-4)


@given(rank=st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_svd_error_is_what_the_singular_values_left_over_say(rank):
    layer = nn.Linear(8, 7)
    singular = torch.linalg.svdvals(layer.weight.detach().double())
    expected = (singular[rank:].square().sum() / singular.square().sum()).sqrt().item()
    assert relative_error(layer, "svd", rank) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["spatial", "tucker2"])
def test_error_falls_with_the_rank(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3)
    errors = [relative_error(layer, kind, rank) for rank in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_cost_by_hand():
    layer = nn.Conv2d(16, 32, 3)
    assert multiplies(layer, None, 0) == 16 * 32 * 9
    assert multiplies(layer, "spatial", 8) == 8 * (16 * 3 + 32 * 3)
    assert multiplies(layer, "tucker2", 8) == 8 * 16 + 8 * 8 * 9 + 8 * 32
    assert multiplies(nn.Linear(10, 20), "svd", 3) == 90


@pytest.mark.parametrize("layer", LAYERS)
def test_a_skeleton_has_the_factors_shapes(layer):
    for kind in kinds(layer):
        shapes = [p.shape for p in skeleton(layer, kind, 3).parameters()]
        assert shapes == [p.shape for p in factors(layer, kind, 3).parameters()]
