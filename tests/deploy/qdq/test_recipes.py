"""The Q/DQ files of the recipes against each rule of their runtimes, read from the file as the runtime would read it."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.models import resnet
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.qdq.insert import Scales, insert
from deploy.qdq.placement import place
from profiles.quantization import QUANTIZATION
from tests.conftest import randomise_batch_norms
from tests.zoo import build

COMPUTE = ("Conv", "Gemm", "MatMul")
FUSES = ("Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Tanh", "Mul", "BatchNormalization")


class Branches(nn.Module):
    """Two convolutions joined by a concatenation, two by an add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
        self.mix, self.shortcut, self.fc = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(16, 12, 1), nn.Linear(12, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = torch.cat([functional.silu(self.a(x)), functional.relu6(self.b(x))], 1)
        x = functional.relu(self.mix(x) + self.shortcut(x))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


MODELS = {
    "resnet": lambda: resnet(blocks=1, width=0.5, shortcut="pad"),
    "squeeze_excite": lambda: build("squeeze_excite"),
    "branches": Branches,
}


IMAGES = np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32)


@functools.cache
def exported(name):
    """A model of MODELS as a program and as an ONNX model."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    randomise_batch_norms(model)
    program = capture(model, [torch.randn(2, 3, 16, 16)])
    return program, to_onnx(program)


@functools.cache
def quantised(name, recipe):
    """The Q/DQ file of a model under a recipe, made as post-training quantisation makes it, and the ranges behind it."""
    model = exported(name)[1]
    quantize = post_training.calibrate(model, ArraySamples(IMAGES, np.zeros(32, np.int64)), recipe, "minmax")
    return post_training.apply(model, quantize), quantize


def file(name, recipe):
    return quantised(name, recipe)[0]


def faults(model):
    """What TensorRT would refuse or not fuse in a Q/DQ file: one line each."""
    graph, found = Graph(model), []
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            zero = graph.constant(node.input[2])
            if zero.dtype != np.int8 or zero.any():
                found.append(f"zero point: {node.name}")
            found += _between(graph, node)
        if node.op_type in COMPUTE:
            found += _layer(graph, node)
        if node.op_type == "Add" and not any(graph.is_constant(t) for t in node.input):
            found += _residual(graph, node)
    return found


def _source(graph, tensor):
    """The tensor behind a pair, or None when no pair makes ``tensor``."""
    made = graph.producer(tensor)
    if made is None or made.op_type != "DequantizeLinear":
        return None
    quantized = graph.producer(made.input[0])
    return quantized.input[0] if quantized is not None else made.input[0]


def _between(graph, pair):
    maker = graph.producer(pair.input[0])
    readers = [n for d in graph.consumers(pair.output[0]) for n in graph.consumers(d.output[0])]
    if maker is None or maker.op_type not in COMPUTE:
        return []
    return [f"between a layer and its {n.op_type}: {pair.name}" for n in readers if n.op_type in FUSES]


def _layer(graph, node):
    found = []
    if len(node.input) > 2 and not graph.is_constant(node.input[2]):
        found.append(f"bias quantised: {node.name}")
    source = _source(graph, node.input[0])
    maker = graph.producer(source) if source else graph.producer(node.input[0])
    if source and maker is not None and maker.op_type == "Pad":
        found.append(f"between a Pad and its layer: {node.name}")
    if source is None and not (maker is not None and maker.op_type == "Pad" and _source(graph, maker.input[0])):
        found.append(f"float input: {node.name}")
    weight = graph.producer(node.input[1])
    if weight is None or weight.op_type != "DequantizeLinear":
        return [*found, f"float weight: {node.name}"]
    integers, scale = graph.constant(weight.input[0]), graph.constant(weight.input[1])
    axis = next(a.i for a in weight.attribute if a.name == "axis")
    if (
        axis != 0
        or integers.dtype != np.int8
        or scale.shape != (integers.shape[0],)
        or graph.constant(weight.input[2]).any()
    ):
        found.append(f"weight not s8, symmetric, per channel on axis 0: {node.name}")
    return found


def _residual(graph, add):
    result = [
        n for r in graph.consumers(add.output[0]) for n in ([r] if r.op_type != "Relu" else graph.consumers(r.output[0]))
    ]
    if all(reader.op_type != "QuantizeLinear" for reader in result):
        return []  # it is read in float, and stays so
    paired = [_source(graph, t) is not None for t in add.input]
    from_layer = []
    for tensor in add.input:
        source = _source(graph, tensor) or tensor
        maker = graph.producer(source)
        from_layer.append(maker is not None and maker.op_type in COMPUTE)
    if not any(paired):
        return [f"no pair on the residual branch: {add.name}"]
    if any(from_layer) and all(paired):
        return [f"a pair between a layer and the add it fuses with: {add.name}"]
    return []


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensorrts_file_keeps_its_rules(name):
    assert faults(file(name, "tensorrt")) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [("resnet", "a pair between a layer and the add"), ("squeeze_excite", "zero point")],
)
def test_the_rules_can_fail(name, fault):
    """The file for x86, which is right there, breaks TensorRT's rules."""
    assert any(line.startswith(fault) for line in faults(file(name, "x86-vnni")))


def test_tensorrts_concatenation_has_one_pair_behind_it():
    graph = Graph(file("branches", "tensorrt"))
    (concat,) = [n for n in graph.nodes if n.op_type == "Concat"]
    assert all(_source(graph, tensor) is None for tensor in concat.input)
    assert [n.op_type for n in graph.consumers(concat.output[0])] == ["QuantizeLinear"]


def test_a_shortcut_through_a_pad_is_quantised_behind_it():
    graph = Graph(file("resnet", "tensorrt"))
    adds = [n for n in graph.nodes if n.op_type == "Add"]
    makers = [graph.producer(s).op_type for add in adds for t in add.input if (s := _source(graph, t))]
    assert sorted(makers) == ["Pad", "Pad", "Relu"]


def padded(mode):
    """A Pad in front of a convolution, as foreign files have it (the exporter folds a zero Pad into the convolution)."""
    w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    sides = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    nodes = [
        helper.make_node("Relu", ["input"], ["a"], name="relu"),
        helper.make_node("Pad", ["a", "sides"], ["padded"], name="pad", mode=mode),
        helper.make_node("Conv", ["padded", "w"], ["output"], name="conv"),
    ]
    shapes = {"input": [1, 3, 8, 8], "output": [1, 4, 7, 7]}
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(sides, "sides")]
    graph = helper.make_graph(nodes, "padded", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("recipe", "mode", "where"),
    [
        ("tensorrt", "constant", ["a"]),
        ("tensorrt", "reflect", ["padded"]),  # no runtime folds these into a convolution
        ("x86-vnni", "constant", ["padded"]),
    ],
)
def test_no_pair_stands_between_a_pad_of_zeros_and_its_convolution(recipe, mode, where):
    placement = place(padded(mode), QUANTIZATION[recipe])
    assert [a.tensor for a in placement.activations] == where
    found = [line for line in faults(_inserted(padded(mode), placement, recipe)) if line.startswith("between a Pad")]
    assert bool(found) == ("padded" in where)


def _inserted(model, placement, recipe):
    activations = {a.tensor: (0.1, 0) for a in placement.activations}
    weights = {w.tensor: np.full(4, 0.1, np.float32) for w in placement.weights}
    return insert(model, placement, Scales(activations=activations, weights=weights), QUANTIZATION[recipe])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_xnnpack_quantises_every_layers_result(name):
    model = file(name, "xnnpack")
    graph = Graph(model)
    zeros = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_zero_point")}
    assert all(z.dtype == np.int8 for z in zeros.values())
    assert any(z.any() for z in zeros.values()), "activations are asymmetric"
    for node in graph.nodes:
        if node.op_type in COMPUTE:
            (reader,) = graph.consumers(node.output[0])
            fused = reader.op_type in ("Relu", "Clip")
            assert (graph.consumers(reader.output[0])[0] if fused else reader).op_type == "QuantizeLinear", node.name
    assert [o.name for o in model.graph.output] == ["output"]
    assert graph.producer("output").op_type == "DequantizeLinear"


@pytest.mark.parametrize("recipe", ["tensorrt", "xnnpack"])
def test_what_is_trained_is_what_is_exported(recipe):
    """The fake-quantised program and the file agree, graph output and symmetric integers included."""
    (program, _), (model, quantize) = exported("branches"), quantised("branches", recipe)
    scales = Scales(activations=quantize.activations, weights={})
    trained = QuantizedProgram(program, quantize.placement, scales, QUANTIZATION[recipe]).eval()
    onnx.checker.check_model(model, full_check=True)
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": IMAGES})[0]
    with torch.no_grad():
        expected = trained(torch.from_numpy(IMAGES)).numpy()
    step = max(scale for scale, _ in quantize.activations.values())
    assert np.abs(got - expected).max() <= 2 * step
    if recipe == "xnnpack":
        scale, zero = quantize.activations["output"]
        np.testing.assert_allclose(expected / scale, np.round(expected / scale), atol=1e-2)
