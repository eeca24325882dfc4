"""A fresh student's first convolution whitens the patches of the training images."""

from __future__ import annotations

import torch
from torch import nn

from compress.methods.distillation.objective import parse_losses
from compress.methods.distillation.whitening import EPSILON, whiten
from compress.models.plan import Plan
from compress.stages.base import Artifact, Context
from compress.stages.distill import PATCHES_OF, Distill
from compress.stages.runner import run_stage
from tests.conftest import small_model, small_plan


def _pictures(channels: int = 3) -> torch.Tensor:
    """Random pictures whose neighbouring pixels and channels are alike, as photographs' are."""
    noise = torch.randn(64, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(noise, 3, 1) * 3 + noise.mean(1, keepdim=True)[..., 1:-1, 1:-1]


def test_whitened_outputs_are_uncorrelated_and_of_unit_variance() -> None:
    convolution = nn.Conv2d(3, 24, 2, bias=False)
    pictures = _pictures()
    found = whiten(nn.Sequential(convolution, nn.ReLU()), pictures)
    assert found is convolution
    outputs = convolution(pictures).transpose(0, 1).flatten(1)
    covariance = torch.cov(outputs[:12])
    patches = torch.nn.functional.unfold(pictures, 2).transpose(0, 1).flatten(1)
    variances = torch.linalg.eigvalsh(torch.cov(patches)).flip(0)
    assert torch.allclose(covariance, torch.diag(variances / (variances + EPSILON)), atol=1e-3)


def test_each_direction_comes_with_its_negative() -> None:
    convolution = nn.Conv2d(1, 8, 3)
    whiten(convolution, _pictures(1))
    assert torch.equal(convolution.weight[:4], -convolution.weight[4:])
    assert not convolution.bias.any()


def test_filters_beyond_the_last_direction_stay_as_they_are() -> None:
    convolution = nn.Conv2d(1, 12, 2)
    before = convolution.weight.detach().clone()
    whiten(convolution, _pictures(1))
    assert torch.equal(convolution.weight[8:], before[8:])
    assert not torch.equal(convolution.weight[:8], before[:8])


def test_a_module_that_does_not_start_with_a_convolution_over_all_channels_is_left() -> None:
    grouped = nn.Conv2d(3, 6, 3, groups=3)
    before = grouped.weight.detach().clone()
    assert whiten(nn.Sequential(grouped), _pictures()) is None
    assert torch.equal(grouped.weight, before)
    assert whiten(nn.Linear(3, 3), _pictures()) is None


LABELS = parse_losses(["task"])


def test_what_whitens_stays_while_all_else_is_trained(context: Context) -> None:
    start = Artifact(plan=small_plan(), module=small_model())
    result, _ = run_stage(Distill(whiten=True, epochs=1, batch_size=32, losses=LABELS), start, context, 0)
    first, second = _convolutions(result.artifact.module)[:2]
    again = small_model()
    images = context.data.train.load(torch.arange(min(PATCHES_OF, len(context.data.train))).numpy()).inputs
    expected = whiten(again, torch.from_numpy(images))
    assert expected is not None
    assert torch.equal(first.weight, expected.weight)
    assert first.weight.requires_grad, "for the stages that follow"
    assert not torch.equal(second.weight, _convolutions(again)[1].weight)
    assert result.notes == ("the first convolution whitens patches of the training images",)


def test_a_student_without_such_a_convolution_is_left_and_named(context: Context) -> None:
    plan = Plan(factory="tests.compress.methods.distillation.test_whitening:linear", arguments={})
    start = Artifact(plan=plan, module=linear())
    result, _ = run_stage(Distill(whiten=True, epochs=1, batch_size=32, losses=LABELS), start, context, 0)
    assert result.notes == ("the first convolution is not one over all channels of an image: left",)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
