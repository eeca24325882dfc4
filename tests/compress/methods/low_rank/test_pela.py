"""PELA's distance of block outputs: against autograd, and in a training."""

import dataclasses

import torch

from compress.methods.distillation.objective import parse_losses
from compress.methods.low_rank.pela import compared_blocks, distil_blocks
from compress.models.features import FeatureHooks
from compress.stages.base import Artifact, Context
from compress.stages.low_rank import LowRank
from compress.stages.runner import run_stage
from tests.conftest import small_model, small_plan

WITHOUT_CHANNELS = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}, "attention"])
"""The default has 'cwd' too, which brings the features near by itself."""


def distance(module, before, paths, inputs):
    """Mean over blocks of the mean squared difference of their outputs."""
    with FeatureHooks(module, paths) as ours, FeatureHooks(before, paths) as theirs:
        module(inputs)
        with torch.no_grad():
            before(inputs)
        pairs = zip(ours.features(), theirs.features(), strict=True)
        return torch.stack([(a - b).square().mean() for a, b in pairs]).mean()


def test_the_added_gradient_is_autograds(example):
    before, module = small_model(0).eval(), small_model(1).train()
    for layer in module.modules():
        layer.training = layer.training and not isinstance(layer, torch.nn.BatchNorm2d)
    paths = compared_blocks(before, example)
    assert paths == ["layer1.0", "layer2.0", "layer3.0"]
    wanted = torch.autograd.grad(
        0.7 * distance(module, before, paths, example), list(module.parameters()), allow_unused=True
    )
    with distil_blocks(module, before, paths, 0.7):
        (0 * module(example).sum()).backward()  # a loss without a gradient of its own
    for parameter, expected in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if expected is None else expected)


def test_nothing_is_left_when_the_block_ends(example):
    before, module = small_model(0).eval(), small_model(1).train()
    with distil_blocks(module, before, compared_blocks(before, example), 1.0):
        pass
    (0 * module(example).sum()).backward()
    assert all(not parameter.grad.any() for parameter in module.parameters())


def test_factors_trained_so_make_the_features_of_what_they_replace(context, monkeypatch):
    monkeypatch.setattr(Context, "judge", lambda self, module, name: 0.0)  # whatever training comes to, it is taken
    module = small_model(width=1.0)
    given = Artifact(plan=small_plan(1.0), module=module)
    inputs = torch.from_numpy(context.data.validation.load(torch.arange(32).numpy()).inputs)
    found = {}
    for weight in (0.0, 20.0):
        settings = {"epochs": 3, "batch_size": 32, "learning_rate": 0.08, "losses": WITHOUT_CHANNELS}  # 0.01 for 12 steps
        stage = LowRank(by="macs", largest_error=0.9, features=weight, **settings)
        folder = context.folder / str(weight)
        result = run_stage(stage, given, dataclasses.replace(context, folder=folder), 0)[0]
        paths = compared_blocks(module, context.example)
        with torch.no_grad():
            found[weight] = float(distance(result.artifact.module.eval(), module.eval(), paths, inputs))
    assert found[20.0] < 0.8 * found[0.0]
