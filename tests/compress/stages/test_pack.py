"""The stage pack: what it stores is what runs, bit by bit, in float and in int8; learned points beat even ones."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.data.base import NamedSamples
from compress.methods.packing.operations import Pack
from compress.methods.packing.packed_program import PackedProgram
from compress.methods.packing.points import pack_fitted
from compress.methods.quantization import post_training
from compress.models.inputs import shapes_of
from compress.models.plan import Plan
from compress.recipe.parse import parse
from compress.stages.base import Artifact, Context
from compress.stages.pack import PackStage
from compress.stages.runner import run_stage
from deploy.export.to_onnx import to_onnx
from deploy.export.to_packed import pack_model
from deploy.packing.packed_file import read, size_breakdown
from profiles.errors import UserError
from tests.conftest import randomise_batch_norms

PLAN = Plan(factory="tests.compress.stages.test_pack:net")


class Net(nn.Module):
    """Two convolutions with batch norms, and three linear layers of which the middle one is called twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16)
        self.narrow, self.middle, self.last = nn.Linear(144, 48), nn.Linear(48, 48), nn.Linear(48, 4)
        self.position = nn.Parameter(torch.randn(1, 48))

    def forward(self, x):
        maps = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        hidden = self.narrow(maps.flatten(1)) + self.position
        return self.last(self.middle(self.middle(hidden).relu()).relu())


def net():
    return Net()


def start():
    torch.manual_seed(0)
    module = Net()
    randomise_batch_norms(module)
    for parameter in module.parameters():
        if parameter.dim() > 1:  # as training leaves them, and not evenly spread
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Artifact(plan=PLAN, module=module.eval())


def packed(context, artifact=None, **settings):
    settings = {"epochs": 0, "batch_size": 32, "smallest": 1, "end_bits": 8, "whole": ("position",), **settings}
    result, _ = run_stage(PackStage(**settings), artifact or start(), context, 0)
    return result


def onnx_bytes(program):
    return to_onnx(program.float_program()).SerializeToString()


def test_what_is_stored_is_what_runs_and_is_shipped_in_float_and_in_int8(context):
    """int8 weights are rounded from decoded ones by a device as they were here."""
    result = packed(context, bits=3, bucket=64, epochs=1, whole=())
    program = result.artifact.module
    assert isinstance(program, PackedProgram) and result.artifact.packed
    found = program.packed()
    for name, one in found.items():
        np.testing.assert_array_equal(one.unpack(), program.body.get_parameter(name).detach().numpy())
    whole = {name for name, p in program.body.named_parameters() if p.dim() > 1} - set(found)
    assert not whole and sum(choice.after == 3 for choice in result.choices) == 4

    plain = to_onnx(program.float_program())
    models = {"float": plain}
    for recipe in ("x86-vnni", "arm-dotprod"):
        quantised = post_training.quantize_model(plain, context.data.calibration, recipe, post_training.PostTraining())
        models[recipe] = quantised.onnx()
    for form, model in models.items():
        content = model.SerializeToString()
        stored, left = pack_model(content, found)
        assert left == () and read(stored) == content
        assert size_breakdown(stored).weights == sum(int(np.prod(one.shape)) for one in found.values())
        integers = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
        assert len(integers) == (0 if form == "float" else 5)


class Words(nn.Module):
    """A table of words, their mean, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.table, self.middle, self.last = nn.Embedding(300, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, input_ids):
        return self.last(self.middle(self.table(input_ids).mean(1)).relu())


def test_a_table_of_embeddings_is_packed_in_float_and_in_int8_of_its_rows():
    """In int8 without it the table would be the larger part of what is stored."""
    torch.manual_seed(0)
    shape = shapes_of({"input_ids": torch.zeros(2, 6, dtype=torch.int64)})
    plain = Pack(input_shape=shape, bits={}, bucket=64, even=()).apply(Words().eval())
    assert "table.weight" in {each.name for each in plain.candidates()}
    bits = {"table.weight": 4, "middle.weight": 4}
    program = PackedProgram(plain.float_program(), bits, 64, frozenset())
    program.adopt({name: pack_fitted(program.body.get_parameter(name).detach(), each, 64) for name, each in bits.items()})
    found, model = program.packed(), to_onnx(program.float_program())
    ids = NamedSamples({"input_ids": np.random.default_rng(0).integers(0, 300, (32, 6))}, np.zeros(32, np.int64))
    int8 = post_training.quantize_model(model, ids, "x86-vnni", post_training.PostTraining()).onnx()
    assert any(tensor.name.endswith("/integers") for tensor in int8.graph.initializer)
    for content in (model.SerializeToString(), int8.SerializeToString()):
        stored, left = pack_model(content, found)
        assert left == () and read(stored) == content
        assert size_breakdown(stored).weights == 300 * 16 + 16 * 32
        assert size_breakdown(stored).fixed_bytes == (300 * 16 + 16 * 32) // 2


@pytest.mark.slow
def test_points_learn_alone_or_with_the_weights_and_all_that_is_stored_whole(context, monkeypatch):
    monkeypatch.setattr(Context, "judge", lambda self, module, name: 0.0)  # whatever training comes to, it is taken
    given = start()
    before = packed(context, given, bits=2).artifact.module
    for training in ("points", "all"):
        after = packed(context, given, bits=2, epochs=2, training=training).artifact.module
        plain, learned = before.body.state_dict(), after.body.state_dict()
        moved = {name for name in plain if not torch.equal(plain[name], learned[name])}
        assert "middle.weight" in moved
        assert ("middle.bias" in moved) == ("position" in moved) == (training == "all")
        ranges = [(one.low.tolist(), one.span.tolist()) for one in (p.packed()["middle.weight"] for p in (before, after))]
        assert ranges[0] == ranges[1]


def test_ends_and_small_weights_are_known_and_said(context):
    result = packed(context, bits=4, smallest=100, whole=())
    bits = {name: one.bits for name, one in result.artifact.module.packed().items()}
    assert bits == {"conv2.weight": 4, "narrow.weight": 4, "middle.weight": 4, "last.weight": 8}
    assert result.notes == (
        "conv1.weight stays whole: it has 72 numbers, fewer than smallest = 100",
        "position stays whole: it has 48 numbers, fewer than smallest = 100",
    )
    assert {choice.family for choice in result.choices} == {"4 bits", "8 bits"}
    notes = packed(context, bits=4, end_bits=0).notes
    assert notes == (
        "conv1.weight stays whole: it is a first or last layer, and end_bits = 0",
        "position stays whole: the recipe says so",
        "last.weight stays whole: it is a first or last layer, and end_bits = 0",
    )


def test_bits_go_where_the_gradient_is_large_and_keep_their_average(context):
    """Also where the student is its own teacher, and has no gradient as it is."""
    context = replace(context, teacher=start().module.requires_grad_(False))
    bits = {name: one.bits for name, one in packed(context, bits=3, allocation="gradient").artifact.module.packed().items()}
    assert (bits.pop("conv1.weight"), bits.pop("last.weight")) == (8, 8)
    assert sum(bits.values()) == 3 * len(bits)


def test_learned_points_are_nearer_to_the_teacher_than_even_ones(context):
    """The student is its own teacher: whatever its outputs are off by, 2 bits have done."""
    given = start()
    context = replace(context, teacher=start().module.requires_grad_(False))
    inputs = context.data.validation.load(np.arange(64)).inputs
    expected = context.trainer.predictor(given.module)(inputs)[0]

    def off(**settings):
        module = packed(context, given, bits=2, end_bits=2, **settings).artifact.module
        return float(np.square(context.trainer.predictor(module)(inputs)[0] - expected).mean() / np.square(expected).mean())

    even, placed, learned = off(points="uniform"), off(), off(epochs=8, training="points")
    assert placed < 0.2 * even and learned < 0.2 * even


def test_what_cannot_be_is_said(context):
    with pytest.raises(UserError, match=r"whole: 'head\.\*' means no weight; weights here: conv1\.weight, conv2"):
        packed(context, whole=("head.*",))
    given = start()
    result = packed(context, given, smallest=10**9, whole=())
    assert result.artifact.module is given.module and result.notes[0] == "no weight can be packed"
    assert not result.artifact.packed


def test_it_gets_milder_by_learning_and_then_bit_by_bit():
    settings, setting = [], PackStage(bits=6, points="uniform")
    while setting is not None:
        settings.append((setting.points, setting.bits))
        setting = setting.softer()
    assert settings == [("uniform", 6), ("learned", 6), ("learned", 7), ("learned", 8)]


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (["pack", "prune"], r"\[\[stage\]\] 1 \(pack\) must be the last stage; prune follows it"),
        (["quantize", "pack"], r"\[\[stage\]\] 2 \(pack\) and quantize cannot stand in one recipe"),
        (["pack", "quantize"], r"\[\[stage\]\] 1 \(pack\) and quantize cannot stand in one recipe"),
    ],
)
def test_a_recipe_in_which_it_stands_wrong_is_refused_before_anything_runs(chain, words):
    table = {
        "task": {"data": "digits"},
        "teacher": {"model": "compress.models:resnet20"},
        "stage": [{"use": name} for name in chain],
    }
    with pytest.raises(UserError, match=words):
        parse(table, name="x", source="x.toml")
