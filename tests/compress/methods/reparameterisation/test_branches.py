"""Branches folded by the module's own method: a fold worked by hand, what is refused, replay, and the way through a run."""

import io
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.methods.reparameterisation.branches import _error, fold_branches, has_branches
from compress.methods.reparameterisation.operations import Fold
from compress.models import plan as plans
from compress.models import trust
from compress.models.plan import Plan
from compress.pipeline.exports import Exporter
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from compress.stages.distill import Distill
from profiles.device import load as profile
from profiles.errors import UserError
from tests.conftest import randomise_batch_norms


class RepBlock(nn.Module):
    """RepVGG's block (Ding et al. 2021): 3x3, 1x1 and identity, each with its batch norm, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn0 = nn.BatchNorm2d(channels)

    def forward(self, x):
        if hasattr(self, "folded"):
            return torch.relu(self.folded(x))
        return torch.relu(self.bn3(self.conv3(x)) + self.bn1(self.conv1(x)) + self.bn0(x))

    def switch_to_deploy(self) -> None:
        width = self.conv3.out_channels
        centre = torch.zeros(width, width, 3, 3)
        centre[:, :, 1, 1] = torch.eye(width)
        one = nn.functional.pad(self.conv1.weight, [1, 1, 1, 1])
        kernel, bias = torch.zeros_like(centre), torch.zeros(width)
        for weight, norm in ((self.conv3.weight, self.bn3), (one, self.bn1), (centre, self.bn0)):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            kernel, bias = kernel + weight * scale.view(-1, 1, 1, 1), bias + norm.bias - norm.running_mean * scale
        self.folded = nn.Conv2d(width, width, 3, padding=1)
        self.folded.weight.data, self.folded.bias.data = kernel.detach(), bias.detach()
        del self.conv3, self.bn3, self.conv1, self.bn1, self.bn0


class Careless(RepBlock):
    """Forgets a branch when it folds."""

    def switch_to_deploy(self) -> None:
        nn.init.zeros_(self.conv1.weight)
        super().switch_to_deploy()


class Unrelated(RepBlock):
    """Has a method that only is called so."""

    def switch_to_deploy(self, where: str) -> None:
        raise AssertionError("never called")


def rep_net(channels=8, kind=RepBlock, classes=4):
    """A stem, two blocks and a classifier, for blobs of (1, 16, 16)."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, 2, 1),
        kind(channels),
        nn.Sequential(kind(channels)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def rep_model(channels=8, classes=4):
    torch.manual_seed(0)
    made = rep_net(channels, classes=classes)
    randomise_batch_norms(made)
    return made.eval()


def test_a_fold_by_hand():
    """One channel. 3x3: middle 2, scale 2 / sqrt(4) = 1, shift 3 - 1 = 2. 1x1: 5. Identity: scale 3 / 3, shift 1 - 2 = -1.

    Together the middle of the kernel is 2 + 5 + 1 = 8, and the bias 2 + 0 - 1 = 1.
    """
    block = RepBlock(1).eval()
    for norm, (weight, bias, mean, variance) in zip(
        (block.bn3, block.bn1, block.bn0), ((2, 3, 1, 4), (1, 0, 0, 1), (3, 1, 2, 9)), strict=True
    ):
        norm.eps = 0.0
        norm.weight.data[:], norm.bias.data[:], norm.running_mean[:], norm.running_var[:] = weight, bias, mean, variance
    nn.init.zeros_(block.conv3.weight)
    block.conv3.weight.data[0, 0, 1, 1], block.conv1.weight.data[:] = 2.0, 5.0
    example = torch.rand(2, 1, 4, 4)
    fold, made, notes = fold_branches(nn.Sequential(block), example)
    assert fold == Fold(parts=(("0", "switch_to_deploy"),))
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 8.0
    assert torch.equal(made[0].folded.weight, kernel) and torch.equal(made[0].folded.bias, torch.tensor([1.0]))
    assert torch.allclose(made(example), torch.relu(8 * example + 1)) and "1 RepBlock" in notes[0]


def test_the_given_module_stays_and_the_plan_replays_bit_for_bit():
    module, example = rep_model(), torch.rand(2, 1, 16, 16)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fold, made, _ = fold_branches(module, example)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert fold.parts == (("1", "switch_to_deploy"), ("2.0", "switch_to_deploy"))
    assert _error(module(example), made(example)) <= 1e-4 and not has_branches(made)
    operations = json.loads(json.dumps(Plan(factory="x:y", operations=(fold,)).as_json()))["operations"]
    again = Fold.from_json({key: value for key, value in operations[0].items() if key != "operation"}).apply(rep_net())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.eval()(example), made(example))


@pytest.mark.parametrize("kind", [Careless, Unrelated])
def test_what_does_not_give_the_same_keeps_its_branches(kind):
    module, example = rep_net(kind=kind).eval(), torch.rand(2, 1, 16, 16)
    randomise_batch_norms(module)
    fold, made, notes = fold_branches(module, example)
    assert fold is None and made is module
    assert any("1 keeps its branches: folded, it is off by" in note for note in notes) == (kind is Careless)


def test_a_layer_and_its_batch_norm_are_no_branches():
    class Pair(nn.Sequential):
        def fuse(self):
            raise AssertionError("never called")

    assert not has_branches(nn.Sequential(Pair(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))))


def test_a_plan_from_elsewhere_calls_no_other_method():
    module = nn.Sequential(RepBlock(1))
    for parts in ((("0", "share_memory"),), (("0", "__class__"),), (("9", "fuse"),), (("0", "fuse"),)):
        with pytest.raises(UserError, match="fold: "):
            Fold(parts=parts).apply(module)


RECIPE = {
    "task": {"data": "tests.conftest:blob_splits"},
    "teacher": {"model": f"{__file__}:rep_model", "epochs": 2, "batch_size": 32},
}


def test_a_run_measures_the_folded_model_and_trains_the_branches(tmp_path):
    said = io.StringIO()
    progress, device = StreamProgress(said), profile("cpu")
    cache = StepCache(tmp_path / "steps", progress)
    builder = ModelBuilder(parse(RECIPE, name="x", source=str(tmp_path / "x.toml")), device, cache, progress)
    teacher = builder.teacher()
    assert [operation.name for operation in teacher.artifact.plan.operations] == ["fold"]
    assert "branches folded in 2 RepBlock" in said.getvalue()
    assert builder.branched(teacher).artifact.plan.operations == ()
    example = torch.from_numpy(builder.data.test.load(np.arange(4)).inputs)
    with torch.no_grad():
        assert _error(builder.branched(teacher).artifact.module(example), teacher.artifact.module(example)) <= 1e-4
    exported = Exporter(builder, device, cache).exported(teacher)
    graph = onnx.load(str(exported.folder / "model.onnx")).graph
    assert [node.op_type for node in graph.node].count("Conv") == 3, "the stem, and one for each block"
    start = builder.student(teacher, builder.recipe.student)
    made = builder.attempt(Distill(epochs=1, batch_size=32), start, teacher)
    assert made.artifact.stages == ("distill",)
    trained = builder.branched(made).artifact
    assert trained.plan.operations == () and hasattr(trained.module[1], "conv1"), "trained branched"
    assert [operation.name for operation in made.artifact.plan.operations] == ["fold"], "and folded for export"
    trust.allow(f"{__file__}:rep_model")
    assert torch.equal(plans.load(made.step.folder)[1](example), made.artifact.module(example))


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050"])
def test_timms_networks_are_folded_as_timm_folds_them(name):
    timm = pytest.importorskip("timm")
    module, example = timm.create_model(name), torch.rand(2, 3, 64, 64)
    randomise_batch_norms(module)
    fold, made, _ = fold_branches(module.eval(), example)
    assert fold is not None and fold_branches(made, example)[0] is None, "nothing is left to fold"
    with torch.no_grad():
        assert _error(module(example), made(example)) <= 1e-4
        assert _error(timm.utils.model.reparameterize_model(module)(example), made(example)) <= 1e-4
    again = fold.apply(timm.create_model(name))
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(example), made(example))
