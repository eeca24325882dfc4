"""Each trait of real networks in a small one: how much goes, that nothing else does, and that a replay is bit-equal."""

import copy
import time

import pytest
import torch

from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.cutting import cut
from compress.methods.pruning.narrowing import build_narrow
from compress.models import plan as surgery
from compress.models.plan import Plan
from tests.compress.methods.pruning import structures
from tests.conftest import count_parameters, randomise_batch_norms
from tests.zoo import small as zoo

OUTPUT = "an output of the model would lose them"
LEAST = {
    **dict.fromkeys(("Transformer", "Window", "Branches", "Upsampled", "C2f", "ViT", "TorchAttention", "ConvNeXt"), 0.35),
    **dict.fromkeys(
        ("LambdaShortcut", "SqueezeExcite", "Shared", "UnevenHeads", "CosineHeads", "Scalars", "Padded", "TiedBlocks"), 0.35
    ),
    **dict.fromkeys(("Flattened", "Inception"), 0.3),
    "Grouped": 0.25,
    "SliceResidual": 0.2,
    "Dense": 0.15,
    "Ghost": 0.1,
    "Shuffle": 0.05,
}
"""Of 25 % of each group's channels, rounded to 4, at least so much of all parameters goes: 1 - 0.75^2 where both sides are
cut, less where inputs and outputs of the model stay, and where groups are of 8, which keep 8."""
SILENCED = ("SliceResidual", "Branches", "Ghost", "Upsampled", "Flattened", "C2f", "Shuffle", "Grouped")


def make(name):
    torch.manual_seed(0)
    module = getattr(structures, name, None) or getattr(zoo, name)
    module = module()
    randomise_batch_norms(module)
    return module.eval()


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_quarter_of_each_group_goes_and_nothing_else(name, tmp_path):
    module, example = make(name), torch.randn(2, 3, 16, 16)
    groups, fixed = rank_groups(module, example)
    operation, notes = cut(module, example, groups, 0.25, 4)
    assert notes == () and len(fixed) == 1 and fixed[0].endswith(OUTPUT)
    small = operation.apply(copy.deepcopy(module))
    assert 1 - count_parameters(small) / count_parameters(module) >= LEAST[name]
    surgery.save(tmp_path, Plan(factory=f"{__name__}:make", arguments={"name": name}, operations=(operation,)), small)
    _, again = surgery.load(tmp_path, trust=True)
    with torch.no_grad():
        assert torch.equal(again(example), small(example))


@pytest.mark.parametrize(
    "name", ["SliceResidual", "Branches", "Ghost", "Upsampled", "Flattened", "C2f", "Shuffle", "Grouped"]
)
def test_outputs_are_those_of_the_whole_with_the_channels_silent(name):
    """In float64, without norms over channels: tensors that a cut drops from are zero there in the whole model."""
    module, example = make(name).double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    operation, _ = cut(module, example, rank_groups(module, example)[0], 0.25, 4)
    small, state = operation.apply(copy.deepcopy(module)), module.state_dict()
    for path, kept in operation.tensors.items():
        for dimension, indices in kept.items():
            lost = [i for i in range(state[path].shape[int(dimension)]) if i not in indices]
            state[path].index_fill_(int(dimension), torch.tensor(lost), 1.0 if path.endswith("running_var") else 0.0)
    with torch.no_grad():
        torch.testing.assert_close(small(example), module(example), rtol=1e-9, atol=1e-9)


def test_heads_go_with_their_query_key_value_projection_and_column_of_the_table():
    module, example = make("Window"), torch.randn(2, 3, 16, 16)
    heads = next(group for group in rank_groups(module, example)[0] if group.root == "attention.qkv")
    operation = build_narrow(module, [heads], {"attention.qkv": [1]})
    kept = [i for i in range(32) if not 8 <= i < 16]
    assert operation.tensors["attention.qkv.weight"] == {"0": [*kept, *(i + 32 for i in kept), *(i + 64 for i in kept)]}
    assert operation.tensors["attention.proj.weight"] == {"1": kept}
    assert operation.tensors["attention.table"] == {"1": [0, 2, 3]}
    assert operation.attributes["attention"] == {"num_heads": 3, "attn_dim": 24}


def test_the_places_of_a_split_in_halves_go_in_both():
    module = make("C2f")
    group = next(g for g in rank_groups(module, torch.randn(2, 3, 16, 16))[0] if g.root == "first.0")
    operation = build_narrow(module, [group], {"first.0": [2]})
    assert operation.tensors["first.0.weight"] == {"0": [i for i in range(32) if i not in (2, 18)]}
    assert operation.tensors["steps.0.0.weight"] == {"1": [i for i in range(16) if i != 2]}
    assert operation.tensors["last.0.weight"] == {"1": [i for i in range(64) if i not in (2, 18)]}


def test_what_an_operator_does_that_has_no_rule_keeps_its_channels_and_is_named():
    module, example = make("Unknown"), torch.randn(2, 3, 16, 16)
    groups, fixed = rank_groups(module, example)
    operation, notes = cut(module, example, groups, 0.25, 4)
    assert [*notes, *fixed] and any(note.startswith("sorted.0 keeps its channels: ") for note in (*notes, *fixed))
    assert operation.tensors["free.0.weight"]["0"] and "sorted.0.weight" not in {
        path for path, kept in operation.tensors.items() if "0" in kept
    }


def test_following_takes_as_long_as_the_blocks_are_many():
    """Sums with slices of the channels, whose graphs take other searches a minute for four blocks."""
    module, example = structures.SliceResidual(24).eval(), torch.randn(2, 3, 8, 8)
    started = time.process_time()
    groups, _ = rank_groups(module, example)
    assert time.process_time() - started < 5 and len(groups) == 25


def test_a_stream_is_cut_to_the_width_of_the_heads_that_stay():
    """Three heads of ten stay, so 30 channels of the stream, though 32 would be the multiple of four."""
    module, example = make("UnevenHeads"), torch.randn(2, 3, 16, 16)
    operation, notes = cut(module, example, rank_groups(module, example)[0], 0.25, 4)
    assert notes == ()
    assert len(operation.tensors["patch.weight"]["0"]) == 30
    assert len(operation.tensors["block.qkv.weight"]["0"]) == 90
    assert [len(operation.tensors["block.proj.weight"][axis]) for axis in "01"] == [30, 30]


def test_heads_of_all_blocks_on_a_stream_are_cut_with_it():
    """Of four heads of ten channels three stay in each of three blocks, so 30 of the stream's 40."""
    module, example = make("TiedBlocks"), torch.randn(2, 3, 16, 16)
    operation, notes = cut(module, example, rank_groups(module, example)[0], 0.25, 4)
    assert notes == ()
    assert len(operation.tensors["patch.weight"]["0"]) == 30
    assert [operation.attributes[f"blocks.{n}"]["num_heads"] for n in range(3)] == [3, 3, 3]
    assert [len(operation.tensors[f"blocks.{n}.qkv.weight"]["0"]) for n in range(3)] == [90, 90, 90]


def test_a_model_that_runs_and_cannot_be_followed_is_told_from_one_that_does_not_run(monkeypatch):
    module, example = make("Scalars"), torch.randn(2, 3, 16, 16)
    wrong = rank_groups(module, torch.randn(2, 5, 16, 16))[1]
    assert wrong[0].startswith("no channel is cut: the model does not run on its example (RuntimeError: ")

    def faulty(call):
        raise KeyError(call.name)

    monkeypatch.setattr("compress.methods.pruning.structure.rules.follow", faulty)
    assert rank_groups(module, example)[1][0].startswith("no channel is cut: its channels cannot be followed (KeyError: ")
