import contextlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import deploy.export.to_onnx as exporter
from deploy.export.to_onnx import capture, tensor_nodes, to_graph_module, to_onnx
from deploy.onnx_graph.graph import FX_NODE
from profiles.errors import UserError
from tests.conftest import randomise_batch_norms, small_model


def run(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"input": inputs.numpy()})[0]


def test_export_is_clean_and_equal(example):
    module = small_model()
    model = to_onnx(capture(module, [example]))
    assert [i.name for i in model.graph.input] == ["input"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [o.name for o in model.graph.output] == ["output"]
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert not any("site-packages" in p.value or ".py" in p.value for n in model.graph.node for p in n.metadata_props)
    known = {v.name for v in model.graph.value_info} | {"output"}
    assert {o for n in model.graph.node for o in n.output} <= known
    inputs = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, inputs), module.eval()(inputs).numpy(), atol=1e-4)


def test_names_are_the_programs_and_stay_when_converted_again(example):
    program = capture(small_model(), [example])
    nodes = {n.name for n in program.graph.nodes}
    first, again = to_onnx(program), to_onnx(program)
    assert [list(n.output) for n in first.graph.node] == [list(n.output) for n in again.graph.node]
    owners = [p.value for n in first.graph.node for p in n.metadata_props if p.key == FX_NODE]
    assert len(owners) == len(first.graph.node)
    assert set(owners) <= nodes


def test_what_was_converted_to_capture_a_program_is_used_and_is_what_converting_it_again_gives(example, monkeypatch):
    program = capture(small_model(), [example])
    conversions = []
    convert = exporter._convert
    monkeypatch.setattr(exporter, "_convert", lambda given: conversions.append(1) or convert(given))
    first = to_onnx(program)
    assert conversions == []
    again = to_onnx(program)
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert conversions == [1]


def test_a_program_whose_weights_changed_since_is_converted_as_it_is_now(example):
    program = capture(small_model(), [example])
    name = next(name for name in program.state_dict if name.endswith("linear.weight"))
    with torch.no_grad():
        program.state_dict[name].mul_(2)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in to_onnx(program).graph.initializer}
    assert any(np.array_equal(value, program.state_dict[name].detach().numpy()) for value in weights.values())


def test_the_exporters_table_of_operators_is_made_once_and_torch_is_left_as_it_was(example, monkeypatch):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    own = ONNXRegistry.__dict__["from_torchlib"]
    program = capture(small_model(), [example])
    made = []

    def counted(cls, opset_version):
        made.append(opset_version)
        return own.__func__(cls, opset_version)

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", classmethod(counted))
    first, again = to_onnx(program), to_onnx(program)
    assert len(made) == 1
    assert ONNXRegistry.__dict__["from_torchlib"].__func__ is counted
    monkeypatch.setattr("deploy.export.to_onnx._cached_registry", contextlib.nullcontext)
    assert to_onnx(program) == first == again
    assert len(made) == 2


def test_capture_leaves_the_module_as_it_was(example):
    module = small_model().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    capture(module, [example])
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


class TwoOnOne(nn.Module):
    """A convolution that a batch norm and someone else read: nothing may be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return (self.bn(y) + y).mean((2, 3))


class Shared(nn.Module):
    """One convolution called twice, each time before another batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(1, 4, 3, bias=True), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return (self.one(self.conv(x)) * self.two(self.conv(2 * x))).mean((2, 3))


class LinearNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.bn = nn.Linear(256, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.bn(self.linear(x.flatten(1)))


@pytest.mark.parametrize("kind", [TwoOnOne, Shared, LinearNorm])
def test_folding_never_changes_what_is_computed(kind, example):
    torch.manual_seed(0)
    module = kind()
    randomise_batch_norms(module)
    model = to_onnx(capture(module, [example]))
    inputs = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run(model, inputs), module.eval()(inputs).numpy(), atol=1e-4)


def test_a_mean_over_space_is_a_pool_that_runtimes_have_in_integers(example):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = to_onnx(capture(module, [example]))
    assert "GlobalAveragePool" in {n.op_type for n in model.graph.node}
    assert "ReduceMean" not in {n.op_type for n in model.graph.node}


class Airy(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Airy(), r"operator aten.special_airy_ai in module '1' has no ONNX form"),
        (Branching(), r"in module 1: its forward pass branches on the values of a tensor"),
    ],
)
def test_what_does_not_export_is_named_with_its_module(part, words, example, capfd):
    with pytest.raises(UserError, match=words) as caught:
        capture(nn.Sequential(nn.Conv2d(1, 4, 3), part), [example])
    assert len(caught.value.faults) == 1
    assert "\n" not in caught.value.faults[0]


def test_checker_accepts_the_file(example, tmp_path):
    onnx.save(to_onnx(capture(small_model(), [example])), str(tmp_path / "m.onnx"))
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


@pytest.mark.parametrize(
    "cut", [lambda x: x.chunk(2, dim=1), lambda x: torch.split(x, [1, 2], 1), lambda x: x.unbind(1)[:2]]
)
def test_parts_of_a_split_are_found_by_their_names_in_the_file(cut):
    """Without them a pair of the placement found no node, and runtimes made from the program read floats there."""

    class Cut(nn.Module):
        def forward(self, x):
            first, second = cut(x)
            return first.relu().sum() + 2 * second.sigmoid().sum()

    program = capture(Cut(), [torch.randn(2, 3, 4, 4)])
    nodes = tensor_nodes(to_graph_module(program).graph)
    readers = {node.op_type: node.input[0] for node in to_onnx(program).graph.node if node.op_type in ("Relu", "Sigmoid")}
    parts = {kind: nodes[tensor].args[1] for kind, tensor in readers.items()}
    assert parts == {"Relu": 0, "Sigmoid": 1}
