"""Reconstruction: known answers, and that it makes up for more than a constant does."""

import copy

import pytest
import torch
from torch import nn

from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.compensate import compensate
from compress.methods.pruning.cutting import cut
from compress.methods.pruning.operations import Narrow, Remove
from compress.methods.pruning.reconstruct import fit_sample_count, reconstruct
from compress.methods.pruning.residual_streams import find_streams
from tests.conftest import small_model

BATCHES = [torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def of_three(reader, *behind):
    """Three channels of which the last is the first plus twice the second, and what reads them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), reader, *behind).eval()
    with torch.no_grad():
        for part in model[0].weight, model[0].bias:
            part[2] = part[0] + 2 * part[1]
    return model


def without_the_last(reader):
    return Narrow(
        tensors={"0.weight": {"0": [0, 1]}, "0.bias": {"0": [0, 1]}, f"{reader}.weight": {"1": [0, 1]}},
        attributes={"0": {"out_channels": 2}, reader: {"in_channels": 2}},
    )


def test_what_others_make_together_is_not_missed():
    """By hand: the reader's weight for the last channel goes to the first once and to the second twice."""
    whole = of_three(nn.Conv2d(3, 4, 1))
    operation = without_the_last("1")
    made = operation.apply(copy.deepcopy(whole))
    before = whole[1].weight.detach()[:, :, 0, 0]
    assert reconstruct(whole, made, operation, BATCHES, ridge=1e-12) == ()
    expected = before[:, :2] + before[:, 2:] * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(made[1].weight.detach()[:, :, 0, 0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made(BATCHES[0]), whole(BATCHES[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "batch norm"])
def test_kernels_borders_and_strides(bias):
    """A 3x3 kernel with padding and stride reads the same combination everywhere but where padding is: there as well."""
    norm = nn.BatchNorm2d(4)
    whole = of_three(nn.Conv2d(3, 4, 3, padding=1, stride=2, bias=bias), norm)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    operation = without_the_last("1")
    made = operation.apply(copy.deepcopy(whole))
    assert (made(BATCHES[0]) - whole(BATCHES[0])).abs().max() > 0.1
    reconstruct(whole, made, operation, BATCHES, ridge=1e-12)
    torch.testing.assert_close(made(BATCHES[0]), whole(BATCHES[0]), atol=1e-3, rtol=1e-3)


def test_an_endless_ridge_leaves_the_weights():
    whole = of_three(nn.Conv2d(3, 4, 1))
    operation = without_the_last("1")
    made = operation.apply(copy.deepcopy(whole))
    reconstruct(whole, made, operation, BATCHES, ridge=1e9)
    torch.testing.assert_close(made[1].weight, whole[1].weight[:, :2], atol=1e-5, rtol=1e-5)


def test_it_makes_up_for_more_than_constants_do(example):
    """On samples that it was not fitted on, in a residual network: a third of the channels gone."""
    model = small_model(0, width=1.0).eval()
    groups, _ = rank_groups(model, example)
    operation, _ = cut(model, example, groups, 0.34, 4)
    fitted_on = [torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))]
    others = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    shifted, fitted = (operation.apply(copy.deepcopy(model)).eval() for _ in range(2))
    compensate(model, shifted, operation, fitted_on)
    reconstruct(model, fitted, operation, fitted_on)
    with torch.no_grad():
        off = [(made(others) - model(others)).square().mean() for made in (shifted, fitted)]
    assert off[1] < 0.5 * off[0]


def test_what_runs_twice_is_named_and_left():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.reader = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            made = self.first(x)
            return self.reader(made) + self.reader(made.relu())

    whole = Twice().eval()
    operation = Narrow(
        tensors={"first.weight": {"0": [0, 1]}, "first.bias": {"0": [0, 1]}, "reader.weight": {"1": [0, 1]}},
        attributes={"first": {"out_channels": 2}, "reader": {"in_channels": 2}},
    )
    made = operation.apply(copy.deepcopy(whole))
    before = made.reader.weight.clone()
    assert reconstruct(whole, made, operation, BATCHES) == ("reader",)
    assert torch.equal(made.reader.weight, before)


class Block(nn.Module):
    """A residual block of the usual kind; its last layer takes in ``channels`` of the stream."""

    def __init__(self, channels, norm, kernel):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, channels, 1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x):
        made = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        made += x
        return made.relu_()


def of_blocks(count, norm=True, kernel=3):
    """A stem and residual blocks, with statistics as if trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), *(Block(3, norm, kernel) for _ in range(count))).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 2), (layer.weight, 0.5, 2):
                nn.init.uniform_(tensor, low, high)
    return model


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "bias"])
def test_what_is_added_to_a_stream_is_found(norm):
    """The last layer of each block, and neither the first nor the stem."""
    model = of_blocks(2, norm)
    paths = [path for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    norms = {"2.conv1": "2.bn1", "3.conv1": "3.bn1", **({"2.conv2": "2.bn2", "3.conv2": "3.bn2"} if norm else {})}
    assert find_streams(model, paths, norms, BATCHES[0]) == {"2.conv2": "2", "3.conv2": "3"}


class Adds(nn.Module):
    """What a layer makes, added to what it reads: in place, or to the last of a list."""

    def __init__(self, in_place):
        super().__init__()
        self.layer, self.in_place = nn.Conv2d(2, 2, 1), in_place

    def forward(self, x):
        made = self.layer(x[-1])
        return x[-1].add_(made) if self.in_place else x[-1] + made


class OfAList(nn.Module):
    """Blocks that read one list, which grows behind each, as DenseNet's do."""

    def __init__(self, in_place):
        super().__init__()
        self.blocks = nn.ModuleList(Adds(in_place) for _ in range(2))

    def forward(self, x):
        read = [x.clone()]
        for block in self.blocks:
            read.append(block(read))
        return torch.cat(read, 1)


@pytest.mark.parametrize("in_place", [False, True])
def test_blocks_that_read_a_growing_list_or_add_in_place_have_streams(in_place):
    model, paths = OfAList(in_place).eval(), ["blocks.0.layer", "blocks.1.layer"]
    assert find_streams(model, paths, {}, BATCHES[0]) == {"blocks.0.layer": "blocks.0", "blocks.1.layer": "blocks.1"}


class Concatenates(nn.Module):
    """Norm and layer of all that a list holds: with a longer one than it was given its norm has too few channels."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1)

    def forward(self, read):
        return self.layer(self.norm(torch.cat(read, 1)))


class DenseBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layers = nn.Conv2d(2, 4, 1), nn.ModuleList(Concatenates(width) for width in (4, 6))

    def forward(self, x):
        read = [self.stem(x)]
        for layer in self.layers:
            read.append(layer(read))
        return torch.cat(read, 1)


def test_a_dense_block_has_no_streams():
    model = DenseBlock().eval()
    assert find_streams(model, ["layers.0.layer", "layers.1.layer"], {}, BATCHES[0]) == {}


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "bias"])
def test_a_block_stands_in_for_one_that_is_gone(norm):
    """The first block only adds a constant: then the second adds it, and reads as much more, both to the last digit."""
    whole = of_blocks(2, norm, kernel=1)
    with torch.no_grad():
        whole[2].conv2.weight.zero_()
        (whole[2].bn2 if norm else whole[2].conv2).bias.fill_(1)
        if norm:
            whole[2].bn2.running_mean.zero_()
    gone = Remove(blocks=("2",)).apply(copy.deepcopy(whole)).eval()
    assert (gone(BATCHES[0]) - whole(BATCHES[0])).abs().max() > 0.4
    assert reconstruct(whole, gone, None, BATCHES, ridge=1e-12) == ()
    torch.testing.assert_close(gone(BATCHES[0]), whole(BATCHES[0]), atol=1e-4, rtol=1e-4)


def test_blocks_that_are_gone_are_made_up_for_on_other_samples():
    whole = of_blocks(4)
    gone = Remove(blocks=("3", "4")).apply(copy.deepcopy(whole)).eval()
    fitted = copy.deepcopy(gone)
    reconstruct(whole, fitted, None, [torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(5))])
    with torch.no_grad():
        off = [(made(BATCHES[0]) - whole(BATCHES[0])).square().mean() for made in (gone, fitted)]
    assert off[1] < 0.5 * off[0]


def test_training_starts_from_the_function_that_was_fitted():
    """Where batch norms ask the batch instead of what they were told, nothing changes: they were told what it says."""
    whole = of_blocks(3)
    samples = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    fitted = Remove(blocks=("3",)).apply(copy.deepcopy(whole)).eval()
    reconstruct(whole, fitted, None, [samples])
    last = fitted[4]
    with torch.no_grad():
        told = last(fitted[:4](samples))
        asked = last.train()(fitted[:4](samples))
    assert (asked - told).square().mean() < 0.01 * told.var()


def test_what_reads_what_it_did_is_left():
    whole = of_blocks(3)
    gone = Remove(blocks=("4",)).apply(copy.deepcopy(whole)).eval()
    before = copy.deepcopy(gone.state_dict())
    reconstruct(whole, gone, None, BATCHES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in gone.state_dict().items())


class ScaledConv(nn.Conv2d):
    """A convolution that does more than its weight says."""

    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        ScaledConv(3, 4, 1),
    ],
    ids=["same", "reflect", "own class"],
)
def test_what_is_not_plain_is_named_and_left(reader):
    whole, operation = of_three(reader), without_the_last("1")
    made = operation.apply(copy.deepcopy(whole))
    assert reconstruct(whole, made, operation, BATCHES) == ("1",)
    assert torch.equal(made[1].weight, whole[1].weight[:, :2])


def test_how_many_samples():
    assert fit_sample_count(3 * 32 * 32) == 256 and fit_sample_count(3 * 224 * 224) == 111 and fit_sample_count(10**9) == 1
