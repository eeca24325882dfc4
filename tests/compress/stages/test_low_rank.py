import dataclasses

import pytest
import torch
from torch import nn

from compress.methods.cost_model import LayerPrice
from compress.methods.low_rank.factorize import factorize, relative_error
from compress.methods.low_rank.pela import FactorPair, bound_gradients, bound_perturbation
from compress.methods.pruning.attempts import Attempts
from compress.models.plan import Plan
from compress.stages.base import Artifact
from compress.stages.low_rank import LowRank, output_error
from compress.stages.runner import run_stage
from profiles.errors import OutOfReachError
from tests.conftest import small_model, small_plan


class Priced:
    """A device on which spatial factors of rank r take r / 16 of a layer, and all others are no faster than it."""

    key = {"device": "by hand"}

    def layers(self, options, precision):
        return {
            path: LayerPrice(whole_ms=1.0, factors_ms={o: o[1] / 16 if o[0] == "spatial" else 1.0 for o in found})
            for path, found in options.items()
        }


def run(context, target, **settings):
    given = Artifact(plan=small_plan(1.0), module=small_model(width=1.0))
    stage = LowRank(epochs=0, **{"keep": 0.75, "largest_error": 0.99, **settings})
    return run_stage(stage, given, dataclasses.replace(context, target=target), 0)[0]


def test_only_what_the_device_runs_faster_is_factorised(context):
    result = run(context, Priced())
    (operation,) = result.artifact.plan.operations
    assert operation.layers and all(kind == "spatial" and rank < 16 for kind, rank in operation.layers.values())
    assert any(note.startswith("linear stays whole") for note in result.notes)
    assert all(c.bought == pytest.approx(1 - c.after / 16) and 0 < c.kept <= 1 for c in result.choices)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 64, 7, 2, 3), nn.Conv2d(3, 192, 16, 16), nn.Conv2d(64, 4, 7), nn.Conv2d(1, 64, 7), nn.Linear(64, 2)],
    ids=str,
)
def test_every_option_that_is_offered_can_be_built(layer, multiple):
    """Stems, patches and few outputs: ranks end where the layer's own do."""
    for stage in (LowRank(), LowRank(by="macs", keep=0.9)):
        for kind, rank in stage._options(layer, multiple):
            assert factorize(layer, kind, rank) is not None


class Narrow(nn.Module):
    """A stem of 7x7, patches, a dilated and a grouped convolution, and outputs that are fewer than a channel multiple."""

    def __init__(self):
        super().__init__()
        self.stem, self.patches = nn.Conv2d(3, 32, 7, 2, 3), nn.Conv2d(3, 32, 8, 8)
        self.dilated, self.grouped = nn.Conv2d(32, 32, 3, 1, 2, dilation=2), nn.Conv2d(32, 32, 3, 1, 1, groups=4)
        self.map, self.head = nn.Conv2d(32, 2, 3, 1, 1), nn.Linear(64, 2)

    def forward(self, x):
        x = x.repeat(1, 3, 1, 1)
        stem = torch.relu(self.grouped(self.dilated(self.stem(x))))
        pooled = torch.cat([stem.mean((2, 3)), self.patches(x).mean((2, 3))], dim=1)
        return torch.cat([self.head(pooled), self.map(stem).mean((2, 3))], dim=1)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("keep", [0.5, 0.85])
def test_a_network_with_a_stem_patches_and_few_outputs_is_factorised(context, multiple, keep):
    plan = Plan(factory="tests.compress.stages.test_low_rank:Narrow")
    given = Artifact(plan=plan, module=plan.build())
    there = dataclasses.replace(context, profile=dataclasses.replace(context.profile, channel_multiple=multiple))
    result, *_ = run_stage(LowRank(epochs=0, by="macs", keep=keep, largest_error=0.99), given, there, 0)
    assert {"stem", "patches", "dilated"} <= result.artifact.plan.operations[0].layers.keys()
    assert result.artifact.module(context.example).shape == (2, 4)
    assert all(0 < choice.after <= choice.before for choice in result.choices)
    again = result.artifact.plan.build()
    again.load_state_dict(result.artifact.module.state_dict())
    torch.testing.assert_close(again(context.example), result.artifact.module(context.example))


def test_a_layer_is_decomposed_once_for_all_ranks_and_attempts(context, monkeypatch):
    """Two a convolution for Tucker-2, one for spatial factors, one for the head; milder attempts make none."""
    made, eigh = [], torch.linalg.eigh

    def counted(matrix, **how):
        made.extend([matrix] * (not matrix.is_meta))
        return eigh(matrix, **how)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    given = Artifact(plan=small_plan(1.0), module=small_model(width=1.0))
    convolutions = [m for m in given.module.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1 < m.kernel_size[0]]
    stage = LowRank(epochs=0, keep=0.4, largest_error=0.99)
    there = dataclasses.replace(context, target=Priced())
    harsh, mild = (run_stage(each, given, there, 0)[0] for each in (stage, stage.softer()))
    assert len(made) == 3 * len(convolutions) + 1
    alone = run_stage(stage.softer(), given, dataclasses.replace(there, attempts=Attempts()), 0)[0]
    assert mild.artifact.plan.operations == alone.artifact.plan.operations != harsh.artifact.plan.operations
    for name, value in alone.artifact.module.state_dict().items():
        assert torch.equal(mild.artifact.module.state_dict()[name], value)


def test_ranks_are_chosen_together_under_a_speed_up(context):
    mild, strong = (run(context, Priced(), speed_up=s).artifact.plan.operations[0].layers for s in (1.1, 1.4))
    assert len(mild) < len(strong)
    with pytest.raises(OutOfReachError, match=r"the fastest factors measured make the layers [\d.]+x faster; asked 50x"):
        run(context, Priced(), speed_up=50.0)


def test_without_a_device_the_largest_rank_is_taken(context):
    assert run(context, None).artifact.plan.operations[0].layers
    assert run(context, None, by="macs").about == "multiply-accumulates"


def test_the_error_is_that_of_the_output():
    """Given the unit vectors the output is the weight, so its error is the weight's; on what the factors keep it is 0."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 7, bias=False)
    made = factorize(layer, "svd", 3)
    assert output_error(layer, made, torch.eye(8)) == pytest.approx(relative_error(layer, "svd", 3), rel=1e-4)
    right = torch.linalg.svd(layer.weight.detach())[2][:3]
    assert output_error(layer, made, right) < 1e-5


def test_the_perturbation_bound_has_autograds_gradient():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, bias=False)
    made = factorize(layer, "svd", 2)
    pair = FactorPair(made[0].weight, made[1].weight, layer.weight.detach())
    loss = ((made[1].weight @ made[0].weight - pair.whole).abs().max() - 0.01) ** 2
    expected = torch.autograd.grad(loss, [pair.first, pair.second])
    for ours, theirs in zip(bound_gradients(pair, 0.01), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with bound_perturbation([pair], 0.5, 0.01):
        made(torch.zeros(1, 6)).sum().backward()  # a loss without a gradient of its own
    torch.testing.assert_close(made[1].weight.grad, 0.5 * expected[1])
