"""Muon: along orthogonal matrices, at the norm a kernel came with; all else is SGD."""

import pytest
import torch
from torch import nn

from compress.models import resnet
from compress.training.muon import COEFFICIENTS, ITERATIONS, Muon, hidden_kernels, orthogonalize


def singular_values(matrix):
    return torch.linalg.svdvals(matrix)


def test_a_scaled_rotation_goes_where_the_polynomial_sends_its_one_singular_value():
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
    value = 0.5  # of 4 equal singular values of a matrix of norm 1
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        value = a * value + b * value**3 + c * value**5
    assert torch.allclose(orthogonalize(7 * rotation), value * rotation, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_what_it_gives_is_the_polar_factor_roughly_and_turns_with_its_argument(shape):
    draw = torch.Generator().manual_seed(1)
    matrix = torch.randn(*shape, generator=draw)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    in_its_axes = left.T @ found @ right.T
    off = in_its_axes - torch.diag(torch.diagonal(in_its_axes))
    assert off.abs().max() < 1e-4, "the same singular vectors"
    assert (torch.diagonal(in_its_axes) > 0).all()
    if shape[0] != shape[1]:
        assert 0.6 < singular_values(found).min() <= singular_values(found).max() < 1.3
    assert torch.allclose(found.T, orthogonalize(matrix.T), atol=1e-5)
    assert torch.allclose(found, orthogonalize(1000 * matrix), atol=1e-5)


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalize(torch.zeros(3, 5)).any()


def test_the_first_the_last_and_grouped_layers_are_left_to_sgd():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.BatchNorm2d(16),
        nn.Linear(16, 4),
        nn.Linear(4, 2),
    )
    assert [id(p) for p in hidden_kernels(model)] == [id(model[2].weight), id(model[4].weight)]
    nn.init.zeros_(model[2].weight)
    assert [id(p) for p in hidden_kernels(model)] == [id(model[4].weight)], "zeros have no norm to keep"
    nn.init.ones_(model[2].weight)
    model[2].weight.requires_grad_(False)
    assert [id(p) for p in hidden_kernels(model)] == [id(model[4].weight)]
    assert len(hidden_kernels(resnet(blocks=1, shortcut="pad"))) == 6


def test_a_step_keeps_the_norm_and_turns_by_about_the_rate():
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2)))
    before = kernel.detach().clone()
    kernel.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(3)) * 1e-6
    optimizer = Muon([{"params": [kernel], "turns": True, "momentum": 0.6}], 0.1)
    optimizer.step()
    assert torch.allclose(kernel.norm(), before.norm())
    moved = (kernel.detach() - before).norm() / before.norm()
    assert 0.06 < moved < 0.13, "whatever the size of the gradient"


def test_the_rest_is_sgd_with_nesterovs_momentum_and_weight_decay():
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizers = (
        Muon([{"params": [ours], "weight_decay": 0.01}], 0.1),
        torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    )
    for number in range(4):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.tensor([0.5, number - 1.0])
            optimizer.step()
    assert torch.allclose(ours, theirs)
    ours.grad = None
    before = ours.detach().clone()
    optimizers[0].step()
    assert torch.equal(ours, before)
