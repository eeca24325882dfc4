"""A tensor has one name: in the program, and in each file that is made of it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from deploy.export.node_names import SCOPES, keep_names
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import FX_NODE


class SumInPlace(nn.Module):
    """``out += x``, as torchvision's residual blocks and EfficientNets write it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.first(x)
        out = self.second(nn.functional.relu(x, inplace=True))
        out += x
        return out


class ReadLater(nn.Module):
    """The convolution's output is read again behind the clamp in place, which changed it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        y = x.clamp_(-0.1, 0.2)
        return x.exp() + y


class ViewOfIt(nn.Module):
    """A view that is taken before is changed with it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        half = x[:, :2]
        return x.mul_(3.0).sum((1, 2, 3)) + half.exp().mean((1, 2, 3))


class ChangesAView(nn.Module):
    """What is changed is a view of what is read later."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        x[:, :2].add_(1.0)
        return x * 2


class Itself(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        x += x
        return x


KINDS = [SumInPlace, ReadLater, Itself, ViewOfIt, ChangesAView]
INPUTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_results_and_names_stay_when_a_program_is_converted_again(kind):
    torch.manual_seed(0)
    module = nn.Sequential(kind(), kind() if kind is SumInPlace else nn.Identity()).eval()
    program = capture(module, INPUTS)
    nodes = {node.name for node in program.graph.nodes}
    first, again = to_onnx(program), to_onnx(program)
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert {p.value for n in again.graph.node for p in n.metadata_props if p.key == FX_NODE} <= nodes
    for model in first, again:
        made = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": INPUTS.numpy()})[0]
        with torch.no_grad():
            np.testing.assert_allclose(made, module(INPUTS.clone()).numpy(), atol=1e-4, rtol=1e-4)


class Node:
    def __init__(self, name, target="sum"):
        self.op, self.name, self.target = "call_function", name, target


class Program:
    def __init__(self, *nodes):
        self.graph = type("Graph", (), {"nodes": list(nodes)})


def file_of(*names):
    """Nodes in a row, each of a node of its name; of the last both halves."""
    *rest, last = names
    nodes, given = [], "input"
    for name in rest:
        nodes.append(helper.make_node("Relu", [given], [name]))
        given = name
    nodes.append(helper.make_node("Split", [given], [f"{last}_split_0", f"{last}_split_1"], axis=0, num_outputs=2))
    for node, name in zip(nodes, names, strict=True):
        node.metadata_props.add(key=SCOPES, value=repr(["", name]))
    return helper.make_model(helper.make_graph(nodes, "model", [], []))


def test_numbers_that_change_places_are_taken_back_by_hand():
    """``add_2`` was ``add_1``, and ``add_3`` was ``add_2``; of the split both halves had another stem."""
    model = file_of("add_2", "add_3", "split_5")
    keep_names(
        model, Program(Node("add_2"), Node("add_3"), Node("split_5")), Program(Node("add_1"), Node("add_2"), Node("split"))
    )
    assert [list(node.input) + list(node.output) for node in model.graph.node] == [
        ["input", "add_1"],
        ["add_1", "add_2"],
        ["add_2", "split_split_0", "split_split_1"],
    ]
    assert [node.metadata_props[0].value for node in model.graph.node] == ["['', 'add_1']", "['', 'add_2']", "['', 'split']"]


@pytest.mark.parametrize("other", [[Node("add_1")], [Node("add_1"), Node("add_2"), Node("split", "other")]])
def test_a_program_of_other_nodes_gives_no_names(other):
    model = file_of("add_2", "add_3", "split_5")
    before = onnx.ModelProto()
    before.CopyFrom(model)
    keep_names(model, Program(Node("add_2"), Node("add_3"), Node("split_5")), Program(*other))
    assert model == before
