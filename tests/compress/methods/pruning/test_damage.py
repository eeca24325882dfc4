"""What a cut does to the outputs: by hand, and what an allocation makes of it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from compress.methods.allocation.problem import Term
from compress.methods.cost_model import Costs, Coupling
from compress.methods.pruning import budget
from compress.methods.pruning.channels import Group, rank_groups
from compress.methods.pruning.damage import Damages, damage_sample_count, joint_damage, measure_damages
from tests.conftest import small_model


class TwoChannels(nn.Module):
    """y = 3 h0 + h1 of h = (x0, x1)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2))
            self.last.weight.copy_(torch.tensor([[3.0, 1.0]]))

    def forward(self, x):
        return self.last(self.first(x))


def first_of(module):
    """The group of both channels, of which the second is worth less."""
    (group,) = rank_groups(module, torch.zeros(2, 2))[0]
    return dataclasses.replace(group, importance=np.array([1.0, 0.1]))


def test_the_damage_of_a_channel_by_hand():
    """x = (1, 0), (0, 1), (-1, 0), (0, -1): y = 3, 1, -3, -1 of mean 0 and energy 20; without h1 y is off by 1 twice."""
    samples = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    found = measure_damages(TwoChannels(), [first_of(TwoChannels())], {"first": (1, 2)}, (), samples)
    assert found.groups["first"] == {1: pytest.approx(2 / 20), 2: 0.0}


def test_what_another_channel_makes_up_for_does_no_damage():
    """h1 = 2 h0: without it, and without batch norms, what reads h0 takes 3 + 2 of it, and y = 5 h0 as before."""
    module = TwoChannels()
    with torch.no_grad():
        module.first.weight.copy_(torch.tensor([[1.0, 0], [2.0, 0]]))
    samples = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    found = measure_damages(module, [first_of(module)], {"first": (1, 2)}, (), samples)
    assert found.groups["first"][1] < 1e-3


def test_damage_never_falls_as_a_width_does_and_a_silent_block_does_none(example):
    module = small_model(width=1.0)
    with torch.no_grad():
        for tensor in (module.layer2[0].bn2.weight, module.layer2[0].bn2.bias):
            tensor.zero_()
    groups = [g for g in rank_groups(module, example)[0] if g.root.endswith("conv1") and "." in g.root]
    widths = {g.root: tuple(range(2, len(g.importance) + 1, 2)) for g in groups}
    found = measure_damages(module, groups, widths, ("layer1.0",), torch.randn(16, 1, 16, 16))
    for root, curve in found.groups.items():
        values = [curve[width] for width in widths[root]]
        assert values == sorted(values, reverse=True) and values[-1] == 0 and len(values) == len(widths[root])
    assert max(found.groups["layer2.0.conv1"].values()) < 1e-6 < found.groups["layer1.0.conv1"][2]
    assert found.blocks["layer1.0"] > 1e-3


def test_an_allocation_spares_what_the_outputs_need():
    """Two groups that cost the same, equal in importance: the one goes whose cut does less; so does a block."""
    groups = [Group(root=root, importance=np.ones(4)) for root in ("needed", "idle")]
    couplings = {g.root: Coupling(width=4, sizes={}) for g in groups}
    terms = [Term(groups=(g.root,), cost=lambda w: float(w[0]), block=f"block.{g.root}") for g in groups]
    costs = Costs(unit="ms", terms=terms, fixed=0.0, now=8.0, least=0.0, about="by hand")
    blocks = {f"block.{g.root}": (g.root,) for g in groups}
    space = budget.SearchSpace(costs=costs, couplings=couplings, floors={"needed": 2, "idle": 2}, blocks=blocks, multiple=2)
    curve = {2: 0.5, 4: 0.0}
    told = Damages(groups={"needed": curve, "idle": {2: 0.1, 4: 0.0}}, blocks={"block.needed": 0.9, "block.idle": 0.3})
    assert budget.allocate_widths(space, groups, (), 6.1, told, evenly=False).widths == {"needed": 4, "idle": 2}
    gone = budget.allocate_widths(space, groups, (), 4.1, told, evenly=False)
    assert gone.removed == ("block.idle",) and gone.widths == {"needed": 4}


def test_sums_of_damage():
    """By hand: a group's 0.09 by its root is 0.3; half of a block's 0.32 is 0.16, by its root 0.4."""
    told = Damages(groups={"a": {2: 0.09, 4: 0.0}}, blocks={"b": 0.32})
    assert told.weighted(0.5, 0.5, 2.0) == Damages(
        groups={"a": {2: pytest.approx(0.3), 4: 0.0}}, blocks={"b": pytest.approx(0.4)}
    )
    assert told.weighted(1.0, 1.0, 0.0) == told


def test_the_last_blocks_of_a_container_count_more():
    told = Damages(groups={}, blocks={"first.0": 0.3, "first.1": 0.1, "first.2": 0.2, "second.0": 0.1})
    assert told.weighted(1.0, 1.0, 1.0).blocks == pytest.approx(
        {"first.1": 0.1, "first.2": 0.2 * 3 / 2, "first.0": 0.3 * 3, "second.0": 0.1}
    )


def test_the_damage_of_several_cuts_is_measured_as_a_whole():
    """Without both channels y is constant 0: as far off as it varies, whatever the two do alone."""
    samples = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    whole, silent = TwoChannels(), TwoChannels()
    with torch.no_grad():
        silent.last.weight.zero_()
    damage = joint_damage(whole, samples)
    assert damage(silent) == pytest.approx(1.0) and damage(whole) == 0


def test_large_samples_are_few():
    sizes = {3 * 32 * 32: 64, 3 * 224 * 224: 13, 10**8: 8}
    assert {size: damage_sample_count(size) for size in sizes} == sizes
