"""The placement rules, each on the smallest network that shows it."""

import torch
from torch import nn
from torch.nn import functional

from deploy.export.to_onnx import capture, to_onnx
from deploy.qdq.placement import place
from profiles.quantization import QUANTIZATION
from tests.zoo import ZOO


def placed(module, size=8, channels=3, recipe="x86-vnni"):
    model = to_onnx(capture(module.eval(), [torch.randn(2, channels, size, size)]))
    placement = place(model, QUANTIZATION[recipe])
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    return model, placement, [makers.get(a.tensor, "input") for a in placement.activations]


def test_a_tensor_is_quantised_once_for_all_its_readers():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            y = functional.relu(self.a(x))
            return self.b(y) * self.c(y)

    _, placement, makers = placed(Fork())
    assert makers == ["input", "Relu"]
    assert len(placement.weights) == 3


def test_nothing_stands_between_a_convolution_and_its_activation():
    _, _, makers = placed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3)))
    assert makers == ["input", "Relu", "Clip"]


def test_both_branches_of_a_residual_add_are_quantised_and_its_result_after_the_activation():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            y = functional.relu(self.a(x))
            return self.c(functional.relu(self.b(y) + y))

    _, _, makers = placed(Residual())
    assert makers == ["input", "Relu", "Conv", "Relu"]


def test_an_add_that_no_integer_operator_reads_stays_float():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x):
            y = functional.relu(self.a(x))
            return torch.sigmoid(self.b(y) + y)

    _, _, makers = placed(Last())
    assert makers == ["input", "Relu"]


def test_operators_that_move_values_carry_their_inputs_scale():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    _, placement, makers = placed(module)
    assert makers == ["input", "Relu", "MaxPool", "GlobalAveragePool", "Reshape"]
    carried = {a.tensor: a.like for a in placement.activations}
    relu = placement.activations[1].tensor
    assert [carried[a.tensor] for a in placement.activations[2:]] == [relu] * 3


def test_concatenation_of_integer_branches_stays_in_integers():
    class Cat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.c(torch.cat([functional.relu(self.a(x)), functional.relu(self.b(x))], 1))

    _, placement, makers = placed(Cat())
    assert sorted(makers) == ["Concat", "Relu", "Relu", "input"]
    _, first, second, result = placement.activations
    assert (first.like, second.like, result.like) == (None, first.tensor, first.tensor), "one scale: it only copies"
    assert placement.observed_tensors()[first.tensor] == [first.tensor, second.tensor]


def test_a_branch_that_something_else_reads_keeps_its_own_scale():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = functional.relu(self.a(x))
            return self.c(torch.cat([y, functional.relu(self.b(y))], 1))

    _, placement, makers = placed(Dense())
    assert makers == ["input", "Relu", "Relu", "Concat"]
    _, read_twice, branch, result = placement.activations
    assert (read_twice.like, branch.like, result.like) == (None, None, branch.tensor)
    assert placement.observed_tensors()[branch.tensor] == [branch.tensor, result.tensor], "what passes through must fit too"


def test_a_shuffle_has_one_scale_and_pairs_only_where_it_is_entered():
    """ShuffleNet: what passes by, and what each branch adds to it, is concatenated and moved, twice."""
    model = to_onnx(capture(ZOO["shuffle"]().eval(), [torch.randn(2, 3, 16, 16)]))
    placement = place(model, QUANTIZATION["x86-vnni"])
    alike = {a.tensor: a for a in placement.activations if a.tensor == "relu" or a.like == "relu"}
    assert [t for t, a in alike.items() if a.pair] == ["relu", "relu_3", "relu_6"]
    assert [t for t, a in alike.items() if a.counts] == ["relu_3", "relu_6"]
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    assert {makers[t] for t, a in alike.items() if not a.pair} == {"Concat", "Reshape", "Transpose", "Split"}
    assert all(a.pair for a in place(model, QUANTIZATION["ort-x86-vnni"]).activations)


def test_only_a_resize_that_copies_stays_in_integers():
    class Up(nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.a, self.b, self.mode = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), mode

        def forward(self, x):
            return self.b(functional.interpolate(functional.relu(self.a(x)), scale_factor=2, mode=self.mode))

    _, placement, makers = placed(Up("nearest"))
    assert makers == ["input", "Relu", "Resize"]
    assert placement.activations[2].like == placement.activations[1].tensor
    assert placed(Up("bilinear"))[1].activations[-1].like is None


def test_a_branch_that_is_upsampled_by_more_than_copying_keeps_a_concatenation_in_float():
    class Pyramid(nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.a, self.b, self.c, self.mode = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(8, 4, 1), mode

        def forward(self, x):
            y = functional.relu(self.a(x))
            z = functional.interpolate(functional.relu(self.b(y)), scale_factor=2, mode=self.mode)
            return self.c(torch.cat([y, z], 1))

    assert placed(Pyramid("nearest"))[2] == ["input", "Relu", "Relu", "Resize", "Concat"]
    assert placed(Pyramid("bilinear"))[2] == ["input", "Relu", "Concat"]


def test_a_linear_layers_weight_is_quantised_along_its_outputs():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.second(torch.tanh(self.first(x))).flatten(1)

    model, placement, _ = placed(Tokens())
    sizes = {t.name: list(t.dims) for t in model.graph.initializer}
    assert [sizes[w.tensor][w.axis] for w in placement.weights] == [6, 2]


def test_what_stays_float_is_named_with_the_reason():
    class Attention(nn.Module):
        def forward(self, x):
            return torch.matmul(x, x.transpose(2, 3))

    _, placement, makers = placed(Attention())
    assert makers == []
    assert [reason for _, reason in placement.kept_float] == ["a product of two activations"]


def test_graph_outputs_stay_float():
    model, placement, _ = placed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    assert "output" not in {a.tensor for a in placement.activations}
    assert model.graph.output[0].name == "output"


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = functional.silu(self.a(x))
        return self.c(y * torch.sigmoid(self.b(functional.adaptive_avg_pool2d(y, 1))))


def test_what_a_layer_makes_for_a_mean_alone_is_integers():
    means = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert placed(means)[2] == ["input", "Relu"]
    assert placed(means, recipe="tensorrt")[2] == ["input"]

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.a(x)
            return y * y.mean((2, 3), keepdim=True)

    assert placed(Gate())[2] == ["input"]


def test_onnxruntime_s_convolutions_always_make_integers_and_gates_stay_in_them():
    _, _, makers = placed(Gated(), recipe="ort-x86-vnni")
    assert sorted(makers) == ["Conv", "Conv", "Conv", "GlobalAveragePool", "Mul", "Mul", "Sigmoid", "Sigmoid", "input"]


def test_gates_are_float_where_the_runtime_has_no_integer_kernels_for_them():
    _, _, makers = placed(Gated())
    assert sorted(makers) == ["GlobalAveragePool", "Mul", "input"]


def test_a_layer_that_no_recipe_knows_stays_float_and_is_named():
    _, placement, makers = placed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3)))
    assert [reason for _, reason in placement.kept_float] == ["no recipe knows the operator ConvTranspose"]
    assert makers == ["input"]
