import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.methods.low_rank.factorize import (
    build_factors,
    count_macs,
    cut_factors,
    factor_kinds,
    factorize,
    is_buildable,
    largest_rank,
    relative_error,
)


def test_which_layers_have_factors():
    assert factor_kinds(nn.Linear(4, 4)) == ("svd",)
    assert factor_kinds(nn.Conv2d(4, 4, 1)) == ("svd",)
    assert factor_kinds(nn.Conv2d(4, 4, 3)) == ("spatial", "tucker2")
    assert factor_kinds(nn.Conv2d(4, 4, 3, groups=4)) == ()
    assert factor_kinds(nn.Conv1d(4, 4, 1)) == factor_kinds(nn.Conv3d(4, 4, 1)) == ("svd",)
    assert factor_kinds(nn.Conv1d(4, 4, 3)) == factor_kinds(nn.Conv3d(4, 4, 3)) == ("svd", "tucker2")
    assert factor_kinds(nn.Conv2d(4, 4, 3, padding_mode="reflect")) == ()
    assert factor_kinds(nn.BatchNorm2d(4)) == ()


LAYERS = [
    nn.Linear(12, 7),
    nn.Linear(7, 12, bias=False),
    nn.Linear(8, 2),
    nn.Conv2d(6, 9, 1, stride=2),
    nn.Conv2d(6, 9, 3, stride=2, padding=1),
    nn.Conv2d(6, 9, (3, 5), padding=(2, 1), dilation=(2, 1)),
    nn.Conv2d(3, 16, 7, stride=2, padding=3),  # a stem
    nn.Conv2d(3, 24, 8, stride=8),  # patches
    nn.Conv2d(16, 2, 3),  # few outputs
    nn.Conv2d(4, 1, 3),
    nn.Conv1d(6, 9, 1, stride=2),
    nn.Conv1d(6, 9, 5, stride=2, padding=3, dilation=2),
    nn.Conv3d(3, 5, (3, 2, 1), stride=(1, 2, 1), padding=(1, 0, 0)),
]


def inputs_of(layer):
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features)
    return torch.randn(2, layer.in_channels, *[17] * len(layer.kernel_size))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_full_rank_factors_are_the_layer(layer):
    inputs = inputs_of(layer)
    for kind in factor_kinds(layer):
        made = factorize(layer, kind, largest_rank(layer, kind))
        torch.testing.assert_close(made(inputs), layer(inputs), atol=1e-4, rtol=1e-4)
        assert relative_error(layer, kind, largest_rank(layer, kind)) < 1e-5


def test_the_largest_rank_by_hand():
    """SVD of a matrix (inputs * height, outputs * width) or (outputs, inputs); Tucker-2 of whichever side is wider."""
    stem = nn.Conv2d(3, 64, 7)
    assert largest_rank(stem, "spatial") == 21
    assert largest_rank(stem, "tucker2") == 64
    assert largest_rank(nn.Conv2d(3, 64, 1), "svd") == 3
    assert largest_rank(nn.Linear(8, 2), "svd") == 2


def test_tucker2_keeps_a_side_that_has_fewer_channels_than_its_rank():
    first, core, last = build_factors(nn.Conv2d(3, 64, 7, 2, 3), "tucker2", 16)
    assert first.weight.shape == (3, 3, 1, 1) and core.weight.shape == (16, 3, 7, 7) and last.weight.shape == (64, 16, 1, 1)
    assert count_macs(nn.Conv2d(3, 64, 7, 2, 3), "tucker2", 16) == 4 * 3 * 3 + 3 * 16 * 49 + 16 * 64


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_what_can_be_built_is_known_without_a_decomposition(layer):
    for kind in factor_kinds(layer):
        most = largest_rank(layer, kind)
        assert is_buildable(layer, kind, 1) and is_buildable(layer, kind, most)
        assert kind == "tucker2" or not is_buildable(layer, kind, most + 1)


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
    assert count_macs(layer, None, 0) == 16 * 32 * 9
    assert count_macs(layer, "spatial", 8) == 8 * (16 * 3 + 32 * 3)
    assert count_macs(layer, "tucker2", 8) == 8 * 16 + 8 * 8 * 9 + 8 * 32
    assert count_macs(nn.Linear(10, 20), "svd", 3) == 90


@pytest.mark.parametrize("layer", LAYERS)
def test_a_skeleton_has_the_factors_shapes(layer):
    for kind in factor_kinds(layer):
        rank = min(3, largest_rank(layer, kind))
        shapes = [p.shape for p in build_factors(layer, kind, rank).parameters()]
        assert shapes == [p.shape for p in factorize(layer, kind, rank).parameters()]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_cut_of_wider_factors_is_what_a_decomposition_of_its_own_gives(layer):
    for kind in factor_kinds(layer):
        most = largest_rank(layer, kind)
        wide = factorize(layer, kind, most)
        for rank in {1, (most + 1) // 2, most}:
            cut, own = cut_factors(wide, layer, kind, rank).state_dict(), factorize(layer, kind, rank).state_dict()
            assert cut.keys() == own.keys()
            for name, value in own.items():  # Tucker's core is contracted in another order
                torch.testing.assert_close(cut[name], value, rtol=0, atol=1e-6 if kind == "tucker2" else 0)


def test_factors_are_not_cut_to_a_larger_rank():
    layer = nn.Linear(8, 6)
    with pytest.raises(RuntimeError, match="size mismatch"):
        cut_factors(factorize(layer, "svd", 2), layer, "svd", 3)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (12, 12)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize("full", [True, False], ids=["of full rank", "of rank 4"])
def test_factors_are_those_of_the_singular_value_decomposition(shape, full):
    """The nearest product of rank 6, both sides as large as the singular values' roots; of a matrix of rank 4 the matrix."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        if not full:
            layer.weight.copy_(torch.randn(shape[0], 4) @ torch.randn(4, shape[1]))
    u, s, v = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    first, second = (factor.weight.detach().double() for factor in factorize(layer, "svd", 6))
    torch.testing.assert_close(second @ first, (u[:, :6] * s[:6]) @ v[:6], atol=1e-5, rtol=1e-5)
    values = s[:6] if full else torch.cat([s[:4], torch.zeros(2, dtype=torch.float64)])
    for norms in first.norm(dim=1), second.norm(dim=0):
        torch.testing.assert_close(norms, values.sqrt(), atol=1e-3, rtol=1e-4)


def test_factors_of_zeros_make_zeros():
    layer = nn.Linear(6, 8)
    nn.init.zeros_(layer.weight)
    first, second = (factor.weight for factor in factorize(layer, "svd", 2))
    assert bool((second @ first == 0).all())
