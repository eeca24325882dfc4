import numpy as np
import pytest
import torch
from torch import nn

from compress.methods.pruning.channels import Group, choose_channels, choose_shares, least_important, rank_groups
from compress.methods.pruning.cutting import cut, cut_channels
from compress.methods.pruning.operations import Narrow
from compress.models import plan as surgery
from compress.models.plan import Plan
from tests.conftest import small_model


def group(root, importance):
    return Group(root=root, importance=np.asarray(importance, float))


def test_choose_cuts_the_least_important_of_all_groups():
    groups = [group("a", [0.1, 0.2, 3.0, 4.0]), group("b", [2.0, 2.1, 2.2, 2.3])]
    assert choose_channels(groups, 0.25, 1) == {"a": [0, 1]}


def test_counts_are_multiples_and_never_zero():
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng.random(40)) for i in range(5)]
    for ratio in (0.1, 0.5, 0.95):
        for root, dropped in choose_channels(groups, ratio, 8).items():
            assert (40 - len(dropped)) % 8 == 0, root
            assert 0 < 40 - len(dropped) < 40


def test_a_group_smaller_than_the_multiple_stays_whole():
    assert choose_channels([group("a", [1.0, 2.0, 3.0])], 0.9, 8) == {}


def test_groups_of_a_residual_network_and_its_output_is_not_among_them(example):
    roots = {g.root: len(g.importance) for g in rank_groups(small_model(), example)[0]}
    assert sorted(roots.values()) == [8, 8, 16, 16, 32, 32], "a stage's stream and each block's inside"


def test_an_output_of_the_model_never_loses_a_channel(example):
    groups, notes = rank_groups(small_model(), example)
    assert "linear" not in {group.root for group in groups}
    assert notes == ("linear keeps its channels: an output of the model would lose them",)


def test_a_ratio_is_of_each_group_where_importances_do_not_compare():
    """Of 40 channels 30 stay, rounded to 32; of 16 twelve, which is as near to 8 as to 16: the even multiple."""
    groups = [group("wide", np.linspace(5, 6, 40)), group("narrow", np.linspace(0, 1, 16))]
    assert {root: len(lost) for root, lost in choose_shares(groups, 0.25, 8).items()} == {"wide": 8}
    assert {root: len(lost) for root, lost in choose_shares(groups, 0.25, 1).items()} == {"wide": 10, "narrow": 4}


def test_what_is_kept_are_slices_of_the_original(example):
    module = small_model(width=1.0)
    groups = rank_groups(module, example)[0]
    operation, _ = cut(module, example, groups, 0.4, 8)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    small = operation.apply(small_model(width=1.0))
    for name, tensor in small.state_dict().items():
        expected = before[name]
        for dimension, kept in operation.tensors.get(name, {}).items():
            expected = expected.index_select(int(dimension), torch.tensor(kept))
        assert torch.equal(tensor, expected), name


def test_cutting_channels_that_do_nothing_changes_nothing(example):
    """Channels whose weights, scale and shift are zero on both sides: the cut must not move a bit of the function."""
    module = small_model(width=1.0).eval()
    with torch.no_grad():
        block = module.layer1[0]
        for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
            tensor[:8] = 0
        block.conv2.weight[:, :8] = 0
    groups = [g for g in rank_groups(module, example)[0] if g.root == "layer1.0.conv1"]
    operation, _ = cut(module, example, groups, 0.5, 8)
    assert operation.attributes["layer1.0.conv1"]["out_channels"] == 8
    with torch.no_grad():
        expected = module(example)
        torch.testing.assert_close(operation.apply(module)(example), expected, atol=1e-5, rtol=1e-5)


def test_coupled_layers_lose_the_same_channels(example):
    module = small_model(width=1.0)
    operation, _ = cut(module, example, rank_groups(module, example)[0], 0.5, 8)
    streams = [operation.tensors[f"{p}.weight"]["0"] for p in ("conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2")]
    assert all(kept == streams[0] for kept in streams)
    assert operation.tensors["layer2.0.conv1.weight"]["1"] == streams[0]


class FixedView(nn.Module):
    """Counts on 16 channels in its forward pass: cutting them would break it."""

    def __init__(self):
        super().__init__()
        self.conv, self.other, self.linear = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x):
        y = self.other(torch.relu(self.conv(x))).mean((2, 3))
        return self.linear(y.view(-1, 16))


def test_what_cannot_be_cut_is_left_whole_and_named(example):
    module = FixedView()
    operation, notes = cut(module, example, rank_groups(module, example)[0], 0.6, 8)
    assert set(operation.tensors) >= {"conv.weight"}
    assert "linear.weight" not in operation.tensors
    assert any(note.startswith("other keeps its channels") for note in notes)
    assert operation.apply(module)(example).shape == (2, 4)


@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_the_model_itself_is_left_alone(ratio, example):
    module = small_model()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cut(module, example, rank_groups(module, example)[0], ratio, 8)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_ratio_that_cuts_no_whole_multiple_is_told(example):
    groups, _ = rank_groups(small_model(), example)
    operation, notes = cut(small_model(), example, groups, 0.01, 64)
    assert operation is None
    assert notes == ("a ratio of 0.01 cuts no 64 channels from any group; the widest has 32",)


def test_a_wide_pointwise_convolution_keeps_the_rows_that_were_asked():
    module = nn.Sequential(nn.Conv2d(3, 96, 1), nn.ReLU(), nn.Conv2d(96, 128, 1), nn.ReLU(), nn.Conv2d(128, 4, 1)).eval()
    example = torch.randn(2, 3, 4, 4)
    group = next(g for g in rank_groups(module, example)[0] if g.root == "2")
    operation, notes = cut_channels(module, example, [group], {"2": least_important(group, 80)})
    stay = sorted(set(range(128)) - set(least_important(group, 80)))
    assert notes == () and operation.tensors["2.weight"] == {"0": stay} and operation.tensors["4.weight"] == {"1": stay}


class ConvNorm(nn.Module):
    """States sizes that it reads from its convolution, as libraries' blocks do."""

    def __init__(self, given, made):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)

    @property
    def in_channels(self):
        return self.conv.in_channels

    @property
    def out_channels(self):
        return self.conv.out_channels

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


def blocks_with_properties():
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    return nn.Sequential(ConvNorm(3, 32), ConvNorm(32, 32), *head).eval()


def test_sizes_that_a_block_reads_from_its_layers_follow_the_cut_and_a_replay_is_bit_equal(tmp_path):
    example, whole = torch.randn(2, 3, 8, 8), blocks_with_properties()
    operation, _ = cut(whole, example, rank_groups(whole, example)[0], 0.4, 8)
    assert set(operation.attributes) == {"0.conv", "0.bn", "1.conv", "1.bn", "4"}
    small = operation.apply(whole)
    assert small[0].out_channels == small[1].in_channels == len(operation.tensors["0.conv.weight"]["0"]) < 32
    surgery.save(tmp_path, Plan(factory=f"{__name__}:blocks_with_properties", operations=(operation,)), small)
    plan, again = surgery.load(tmp_path, trust=True)
    assert isinstance(plan.operations[0], Narrow)
    with torch.no_grad():
        assert torch.equal(again(example), small(example))
