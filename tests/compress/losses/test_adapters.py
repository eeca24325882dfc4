"""Adapters between features of unlike widths, and where they start."""

import pytest
import torch

from compress.losses.adapters import Adapters, make_adapter
from compress.methods.distillation.objective import parse_losses
from compress.stages.base import Artifact
from compress.stages.prune import Prune
from compress.stages.runner import run_stage
from tests.conftest import small_model, small_plan

SHAPES = {"maps": (8, 4, 6, 6), "tokens": (8, 9, 4), "vectors": (64, 4)}


def mixed(values, weight):
    """Channels of ``values`` mixed linearly."""
    axis = 1 if values.dim() == 4 else -1
    return (values.movedim(axis, -1) @ weight.T).movedim(-1, axis)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_fitted_adapter_is_the_map_there_is(kind):
    """The teacher is the student mixed by a matrix: that is the adapter, and a random one is far from it."""
    generator = torch.Generator().manual_seed(0)
    student, weight = torch.randn(SHAPES[kind], generator=generator), torch.randn(7, 4, generator=generator)
    teacher = mixed(student, weight)
    layer = make_adapter(student, teacher, fitted=True)
    torch.testing.assert_close(layer.weight.reshape(7, 4), weight, atol=0.02, rtol=0)
    assert (layer(student) - teacher).norm() < 0.01 * teacher.norm()
    assert (make_adapter(student, teacher)(student) - teacher).norm() > 0.5 * teacher.norm()


def test_a_linear_adapter_finds_the_constant_too():
    student = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) + 5
    layer = make_adapter(student, 2 * student[:, :2] + 7, fitted=True)
    assert (layer(student) - (2 * student[:, :2] + 7)).abs().max() < 0.1


def test_it_is_fitted_in_the_smaller_size_and_nothing_where_widths_agree():
    student = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher = torch.nn.functional.avg_pool2d(student, 2)
    layers = Adapters([student, student], [teacher.repeat(1, 2, 1, 1), teacher], fitted=True)
    (made, asked), (same, _) = layers([student, student], [teacher.repeat(1, 2, 1, 1), teacher])
    assert (made - asked).norm() < 0.01 * asked.norm()
    torch.testing.assert_close(same, teacher)


def test_few_places_leave_a_small_map():
    """Two places cannot decide eight channels: what they leave open stays small."""
    student, teacher = torch.randn(2, 8), torch.randn(2, 5)
    assert make_adapter(student, teacher, fitted=True).weight.norm() < 10


def test_a_pruned_student_starts_with_adapters_that_know_it(context):
    """Its maps are the teacher's with channels missing, so the loss through fitted adapters is less at once."""
    given = Artifact(plan=small_plan(1.0), module=small_model(7, width=1.0))
    cut = run_stage(Prune(epochs=0, ratio=0.3), given, context, 0)[0].artifact.module
    losses, batch = parse_losses(["hcl"]), context.data.train.load(torch.arange(32).numpy())
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    values = []
    for trained in (True, False):
        with context.objective(cut, losses, 128, trained=trained) as objective, torch.no_grad():
            values.append(float(objective(cut, inputs, targets)[0]))
    assert values[0] < 0.3 * values[1]
