import copy

import pytest
import torch

from compress.methods.distillation.weight_inheritance import inherit_weights, map_by_depth
from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.narrowing import build_narrow
from compress.models import resnet
from tests.conftest import randomise_batch_norms
from tests.zoo import ViT


def net(**settings):
    torch.manual_seed(0)
    model = resnet(**{"blocks": 1, "in_channels": 1, "classes": 4, **settings})
    randomise_batch_norms(model)
    return model.eval()


def test_depth_is_taken_by_interval():
    teacher, student = net(blocks=4), net(blocks=2)
    taken = map_by_depth(student.state_dict(), teacher.state_dict())
    assert torch.equal(taken["layer1.0.conv1.weight"], teacher.layer1[0].conv1.weight)
    assert torch.equal(taken["layer1.1.conv1.weight"], teacher.layer1[2].conv1.weight)
    notes = inherit_weights(student, teacher, None, torch.randn(2, 1, 16, 16))
    assert notes == ("every weight is inherited from the teacher",)
    assert torch.equal(student.layer3[1].conv2.weight, teacher.layer3[2].conv2.weight)


def test_channels_that_do_nothing_are_the_ones_left_behind(example):
    """A wide teacher whose every second channel is silent: the student of half the width computes the same."""
    teacher, student = net(width=1.0), net(width=0.5)
    widths = {name: m.out_channels for name, m in student.named_modules() if isinstance(m, torch.nn.Conv2d)}
    roots = {"conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"}
    dropped = {root: list(range(1, 2 * widths[root], 2)) for root in roots}
    operation = build_narrow(teacher, rank_groups(teacher, example)[0], dropped)
    state = teacher.state_dict()
    for path, kept in operation.tensors.items():
        for dimension, indices in kept.items():
            silent = sorted(set(range(state[path].shape[int(dimension)])) - set(indices))
            state[path].index_fill_(int(dimension), torch.tensor(silent), 1.0 if "running_var" in path else 0.0)
    notes = inherit_weights(student, teacher, net(width=1.0), example)
    assert "coupled channels of largest norm" in notes[0]
    with torch.no_grad():
        torch.testing.assert_close(student(example), teacher(example), atol=1e-5, rtol=1e-4)


def test_depth_and_width_together(example):
    teacher, student = net(blocks=4, width=1.0), net(blocks=2, width=0.5)
    before = copy.deepcopy(student.state_dict())
    assert "coupled channels" in inherit_weights(student, teacher, net(blocks=2, width=1.0), example)[0]
    assert all(not torch.equal(before[k], v) for k, v in student.state_dict().items() if k.endswith("conv1.weight"))


def test_a_transformer_keeps_stream_and_heads_together():
    torch.manual_seed(0)
    teacher, student = ViT(32), ViT(16)
    with torch.no_grad():  # channels 3, 5, 7 ... of the stream are the strong ones; so are each head's channels 0 to 3
        strong = torch.tensor([c for c in range(32) if c % 2])
        for name, tensor in teacher.named_parameters():
            if "norm" in name and name.endswith("weight"):
                tensor[strong] += 100
        for block in teacher.blocks:
            rows = torch.tensor([part * 32 + head * 8 + c for part in range(3) for head in range(4) for c in range(4)])
            block.qkv.weight[rows] += 1
    notes = inherit_weights(student, teacher, ViT(32), torch.randn(2, 3, 16, 16))
    assert notes == ("100 % of the weights are inherited from the teacher",)
    heads = torch.tensor([head * 8 + c for head in range(4) for c in range(4)])
    fused = torch.cat([heads + part * 32 for part in range(3)])
    assert torch.equal(student.blocks[0].qkv.weight, teacher.blocks[0].qkv.weight[fused][:, strong])
    assert torch.equal(student.blocks[1].proj.weight, teacher.blocks[1].proj.weight[strong][:, heads])
    assert torch.equal(student.pos, teacher.pos[..., strong])
    assert torch.equal(student.norm.weight, teacher.norm.weight[strong])


def test_hidden_units_of_a_block_are_chosen_by_that_block():
    torch.manual_seed(0)
    teacher, student = ViT(32), ViT(16)
    with torch.no_grad():
        teacher.blocks[0].fc1.weight[:64] += 10
        teacher.blocks[1].fc1.weight[64:] += 10
    inherit_weights(student, teacher, None, torch.randn(2, 3, 16, 16))
    assert torch.equal(student.blocks[0].fc1.bias, teacher.blocks[0].fc1.bias[:64])
    assert torch.equal(student.blocks[1].fc1.bias, teacher.blocks[1].fc1.bias[64:])


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_the_teacher_is_left_alone(width, example):
    teacher, student = net(blocks=2), net(width=width)
    before = copy.deepcopy(teacher.state_dict())
    inherit_weights(student, teacher, net(), example)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_what_is_wider_than_the_teacher_stays_fresh_and_the_rest_is_inherited():
    teacher, student = net(blocks=4), net(blocks=2, widths=(16, 32, 96))
    fresh = student.state_dict()["layer3.0.conv1.weight"].clone()
    (note,) = inherit_weights(student, teacher, None, torch.randn(2, 1, 16, 16))
    assert "of the weights are inherited" in note
    assert torch.equal(student.layer2[1].conv1.weight, teacher.layer2[2].conv1.weight)
    assert torch.equal(student.layer3[0].conv1.weight, fresh)
