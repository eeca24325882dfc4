"""The proof of a cut on small networks of every kind of norm over channels, and wrong cuts that it has to find."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.methods.pruning.channels import Group, least_important, rank_groups
from compress.methods.pruning.cutting import cut, cut_channels
from compress.methods.pruning.faithfulness import Checker, find_unfaithfulness
from compress.methods.pruning.narrowing import build_narrow
from compress.methods.pruning.operations import Narrow


class LayerNorm2d(nn.LayerNorm):
    """A library's: the channels come first, and are moved to the end for it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OwnNorm(nn.Module):
    """Worked by hand over the channels, which come first."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


class Block(nn.Module):
    """Of a ConvNeXt: depthwise, norm, up, down; faint layer scale."""

    def __init__(self, channels, norm):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 3, padding=1, groups=channels), norm(channels)
        self.up, self.down = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(3 * channels, channels, 1)
        self.scale = nn.Parameter(1e-6 * torch.ones(channels, 1, 1))

    def forward(self, x):
        return x + self.scale * self.down(functional.gelu(self.up(self.norm(self.depthwise(x)))))


class Network(nn.Module):
    def __init__(self, norm, channels=64):
        super().__init__()
        self.stem, self.norm, self.block = nn.Conv2d(3, channels, 4, 4), norm(channels), Block(channels, norm)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.block(self.norm(self.stem(x))).mean((2, 3)))


NORMS = {
    "LayerNorm2d": LayerNorm2d,
    "one group": lambda channels: nn.GroupNorm(1, channels),
    "four groups": lambda channels: nn.GroupNorm(4, channels),
    "own": OwnNorm,
    "without weights": lambda channels: nn.GroupNorm(1, channels, affine=False),
    "batch": nn.BatchNorm2d,
}


def network(name):
    torch.manual_seed(0)
    return Network(NORMS[name]).eval(), torch.randn(2, 3, 16, 16)


def dropped_from(module, example, dropped):
    return cut_channels(module, example, rank_groups(module, example)[0], dropped)


def swapped(operation, path, dimension):
    """The operation with one kept index of a tensor taken for another."""
    kept = operation.tensors[path][dimension]
    wrong = next(i for i in range(max(kept)) if i not in kept)
    indices = sorted([*kept[1:], wrong])
    return dataclasses.replace(
        operation, tensors={**operation.tensors, path: {**operation.tensors[path], dimension: indices}}
    )


@pytest.mark.parametrize("name", NORMS)
def test_channels_within_and_along_norms_are_cut_and_a_wrong_row_of_any_tensor_is_found(name):
    module, example = network(name)
    operation, _ = cut(module, example, rank_groups(module, example)[0], 0.3, 8)
    assert "block.up.weight" in operation.tensors and find_unfaithfulness(module, operation, example) == ""
    for path, kept in operation.tensors.items():
        for dimension in kept:
            if "norm." in path or "depthwise" in path or path.rpartition(".")[2] in ("weight", "scale"):
                assert find_unfaithfulness(module, swapped(operation, path, dimension), example), (path, dimension)


@pytest.mark.parametrize("name", ["LayerNorm2d", "one group", "four groups", "own"])
def test_the_stream_that_norms_read_is_cut_to_what_the_kept_channels_alone_give(name):
    """By hand: a norm of the cut model gives (x - m) / s of the kept channels, m and s of these."""
    module, example = network(name)
    stem = next(g for g in rank_groups(module, example)[0] if g.root == "stem")
    operation, notes = cut_channels(module, example, [stem], {"stem": least_important(stem, 40)})
    assert notes == ()
    kept = operation.tensors["stem.weight"]["0"]
    small = operation.apply(copy.deepcopy(module))
    with torch.no_grad():
        stay = module.stem(example)[:, kept]
        parts = stay.reshape(2, 4, 10, 16) if name == "four groups" else stay.reshape(2, 1, 40, 16)
        over = (2, 3) if "group" in name else (2,)
        mean, variance = parts.mean(over, keepdim=True), parts.var(over, keepdim=True, unbiased=False)
        torch.testing.assert_close(
            small.norm(stay), ((parts - mean) / variance.sqrt()).reshape(stay.shape), atol=1e-3, rtol=1e-3
        )


def test_group_norms_lose_equally_many_of_each_group_or_nothing():
    module, example = network("four groups")
    stem = next(g for g in rank_groups(module, example)[0] if g.root == "stem")
    assert stem.parts == 4
    assert [sum(16 * p <= i < 16 * (p + 1) for i in least_important(stem, 40)) for p in range(4)] == [6, 6, 6, 6]
    operation, notes = cut_channels(module, example, [stem], {"stem": list(range(24))})
    assert operation is None
    assert notes == ("stem keeps its channels: norm normalises 4 groups of channels, and they would not keep equally many",)


def without_eight():
    """A cut of channels 3 to 10 of 32 between layers 0 and 2."""
    kept = [i for i in range(32) if not 3 <= i < 11]
    tensors = {"0.weight": {"0": kept}, "0.bias": {"0": kept}, "2.weight": {"1": kept}}
    return Narrow(tensors=tensors, attributes={"0": {"out_channels": 24}, "2": {"in_channels": 24}})


def test_a_local_response_norm_reads_neighbours():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 3), nn.LocalResponseNorm(5, alpha=0.5), nn.Conv2d(32, 4, 3)).eval()
    groups, fixed = rank_groups(module, torch.randn(2, 3, 8, 8))
    assert groups == [] and "0 keeps its channels: all of its channels go together" in fixed
    reason = find_unfaithfulness(module, without_eight(), torch.randn(2, 3, 8, 8))
    assert reason == "1 divides each channel by its neighbours, and they would be others"


class Neighbours(nn.Module):
    """Of a class of its own: each channel with the one before it."""

    def forward(self, x):
        return x - 0.5 * x.roll(1, 1)


class InForward(nn.Module):
    """Normalises over channels in a forward pass of its own, where no layer can be asked."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.first(x)
        return self.second(functional.layer_norm(x, x.shape[-1:]))


def test_what_cannot_be_shown_is_left_whole_with_where_it_differs():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 3), Neighbours(), nn.Conv2d(32, 4, 3)).eval()
    reason = find_unfaithfulness(module, without_eight(), torch.randn(2, 3, 8, 8))
    assert reason == "1 reads several channels at once, and not all alike"
    operation, notes = dropped_from(InForward().eval(), torch.randn(2, 8), {"first": list(range(8))})
    assert operation is None and notes[0].startswith("first keeps its channels: the channels that stay would give something")


def test_activations_that_are_not_zero_at_zero_are_no_norms():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 32), nn.Hardswish(), nn.Linear(32, 64), nn.Hardsigmoid(), nn.Linear(64, 4)).eval()
    operation, notes = dropped_from(module, torch.randn(2, 5, 8), {"0": list(range(5)), "2": list(range(9, 30))})
    assert {"0.weight", "2.weight"} <= set(operation.tensors) and notes == ()


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        return x * functional.hardsigmoid(self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, given, wide, made, stride):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(given, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(inplace=True))
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.Hardswish(inplace=True))
        self.squeeze = Squeeze(wide)
        self.project = nn.Sequential(nn.Conv2d(wide, made, 1, bias=False), nn.BatchNorm2d(made))
        self.adds = stride == 1 and given == made

    def forward(self, x):
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


def mobile():
    """After MobileNetV3: inverted residuals with squeeze and excitation, a wide last stage."""
    torch.manual_seed(0)
    blocks = [Inverted(*sizes) for sizes in ((16, 64, 24, 2), (24, 96, 24, 1), (24, 144, 48, 2), (48, 288, 48, 1))]
    stem = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True))
    tail = (nn.Conv2d(48, 288, 1, bias=False), nn.BatchNorm2d(288), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*stem, *blocks, *tail, nn.Flatten(), nn.Linear(288, 256), nn.Hardswish(), nn.Linear(256, 10)).eval()


def test_a_mobile_network_of_depthwise_and_pointwise_convolutions_is_cut_everywhere():
    module, example = mobile(), torch.randn(2, 3, 32, 32)
    groups, fixed = rank_groups(module, example)
    operation, notes = cut(module, example, groups, 0.25, 8)
    assert notes == () and fixed == ("14 keeps its channels: an output of the model would lose them",)
    before = sum(p.numel() for p in module.parameters())
    after = sum(p.numel() for p in operation.apply(copy.deepcopy(module)).parameters())
    assert 0.5 < after / before < 0.68


class Attention(nn.Module):
    """As libraries write it: q, k and v are told apart by the width of what comes in."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Encoder(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.patch, self.norm = nn.Linear(12, 32), nn.LayerNorm(32)
        self.attention = attention
        self.up, self.down, self.head = nn.Linear(32, 256), nn.Linear(256, 32), nn.Linear(32, 40)

    def forward(self, x):
        x = self.patch(x)
        x = x + self.attention(self.norm(x))
        return self.head((x + self.down(functional.gelu(self.up(x)))).mean(1))


def test_the_ratio_is_of_what_can_be_cut_and_each_refused_group_is_named():
    """Of 256 hidden units the 64 least go, as the stream and the classes must stay, and of 2 heads both do."""
    torch.manual_seed(0)
    module, example = Encoder(Attention()).eval(), torch.randn(2, 5, 12)
    groups, fixed = rank_groups(module, example)
    assert {g.root: len(g.importance) for g in groups} == {"patch": 32, "attention.qkv": 2, "up": 256}
    operation, notes = cut(module, example, groups, 0.25, 8)
    hidden = next(g for g in groups if g.root == "up")
    stay = sorted(set(range(256)) - set(least_important(hidden, 192)))
    assert operation.tensors == {"up.weight": {"0": stay}, "up.bias": {"0": stay}, "down.weight": {"1": stay}}
    assert [note.split()[0] for note in notes] == ["patch"]
    assert fixed == ("head keeps its channels: an output of the model would lose them",)
    assert notes[0].startswith("patch keeps its channels: the model does not run without some of them")


class FixedView(nn.Module):
    """Parallel layers; the sizes of some are written into the forward pass."""

    def __init__(self, count, fixed):
        super().__init__()
        self.fixed = fixed
        self.up = nn.ModuleList(nn.Linear(8, 24) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(24, 4) for _ in range(count))

    def forward(self, x):
        hidden = [up(x) for up in self.up]
        return sum(
            d(h.view(-1, 24) if i in self.fixed else h) for i, (d, h) in enumerate(zip(self.down, hidden, strict=True))
        )


@pytest.fixture
def checks(monkeypatch):
    """The cuts that were checked."""
    cuts, check = [], Checker.find_fault

    def counted(checker, operation):
        cuts.append(operation)
        return check(checker, operation)

    monkeypatch.setattr(Checker, "find_fault", counted)
    return cuts


def test_one_bad_group_of_many_is_found_by_halves(checks):
    """Of 32 groups: all, then two halves at each of five levels: 11 proofs, and one of the bad one alone."""
    module, example = FixedView(32, {13}).eval(), torch.randn(5, 8)
    groups = rank_groups(module, example)[0]
    operation, notes = cut_channels(module, example, groups, {f"up.{i}": list(range(8)) for i in range(32)})
    assert {p for p in operation.tensors if p.startswith("up.") and p.endswith("weight")} == {
        f"up.{i}.weight" for i in range(32) if i != 13
    }
    assert [note.split()[0] for note in notes] == ["up.13"] and len(checks) == 12
    assert build_narrow(module, groups, {"up.0": [0]}).tensors["down.0.weight"] == {"1": list(range(1, 24))}


class Hidden(nn.Module):
    """A layer between two, and perhaps a size written into the forward pass."""

    def __init__(self, fixed):
        super().__init__()
        self.fixed, self.up, self.down = fixed, nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x):
        hidden = self.up(x)
        return x + self.down(hidden.view(-1, 24) if self.fixed else hidden)


def test_a_bad_group_is_looked_for_in_the_module_that_fails(checks):
    """Of 32: all, all but that of the module whose code fails, that one beside the others, that one alone."""
    module = nn.Sequential(*(Hidden(i == 13) for i in range(32))).eval()
    example = torch.randn(3, 8)
    groups = [group for group in rank_groups(module, example)[0] if group.root.endswith(".up")]
    operation, notes = cut_channels(module, example, groups, {f"{i}.up": list(range(8)) for i in range(32)})
    assert [note.split()[0] for note in notes] == ["13.up"] and len(checks) == 4
    assert len([path for path in operation.tensors if path.endswith("up.weight")]) == 31


def test_a_check_leaves_the_model_and_its_tensors_alone():
    module = nn.Sequential(nn.Linear(8, 24), nn.LayerNorm(24), nn.Linear(24, 4)).eval()
    before = copy.deepcopy(module.state_dict())
    checker = Checker(module, torch.randn(2, 8))
    groups = rank_groups(module, torch.randn(2, 8))[0]
    operation = build_narrow(module, groups, {"0": [0, 5]})
    assert checker.find_fault(operation) is None
    assert checker.find_fault(swapped(operation, "2.weight", "1")) is not None
    assert checker.find_fault(operation) is None
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in before.items())


def test_a_group_in_parts_loses_multiples_of_them():
    assert Group(root="a", importance=torch.ones(24).numpy(), parts=12).step(8) == 24


def test_faint_variances_stay_variances():
    """As batch norms have that read next to nothing after a cut: the proof must not make one negative."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    with torch.no_grad():
        net[1].running_var.fill_(1e-4)
    keep = [0, 3, 5, 8]
    cut = Narrow(
        tensors={
            **{f"{name}": {"0": keep} for name in ("0.weight", "0.bias")},
            **{f"1.{name}": {"0": keep} for name in ("weight", "bias", "running_mean", "running_var")},
            "3.weight": {"1": keep},
        },
        attributes={"0": {"out_channels": 4}, "1": {"num_features": 4}, "3": {"in_channels": 4}},
    )
    assert find_unfaithfulness(net, cut, torch.randn(2, 3, 5, 5)) == ""
