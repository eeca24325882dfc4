"""Recurrent layers: exported as operators of ONNX, float in int8 and named; a cut leaves their units."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.pruning.channels import rank_groups
from compress.methods.pruning.cutting import cut
from compress.methods.quantization import post_training
from compress.methods.quantization.post_training import PostTraining
from deploy.bundle import golden
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load

KINDS = {"GRU": (nn.GRU, {}), "LSTM": (nn.LSTM, {"bidirectional": True, "num_layers": 2})}


class Recurrent(nn.Module):
    """Linear layers around a recurrent one, which reads pruned channels and whose last output is read."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        layer, options = KINDS[kind]
        self.before = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
        self.recurrent = layer(24, 16, batch_first=True, **options)
        self.after = nn.Sequential(nn.Linear(16 * (2 if options else 1), 48), nn.ReLU(), nn.Linear(48, 3))

    def forward(self, x):
        return self.after(self.recurrent(self.before(x))[0][:, -1])


@pytest.fixture(scope="module", params=KINDS)
def exported(request):
    module = Recurrent(request.param).eval()
    return request.param, module, to_onnx(capture(module, torch.randn(2, 10, 6)))


def inputs(count=48):
    return np.random.default_rng(0).normal(size=(count, 10, 6)).astype(np.float32)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_run_the_operator(exported, name, tmp_path):
    kind, module, model = exported
    assert kind in {node.op_type for node in model.graph.node}
    onnx.save(model, str(tmp_path / "model.onnx"))
    runtime = engine(name)
    plan = runtime.plan(load("cpu"), "fp32", runtime.affinity().version)
    (tmp_path / "engine").mkdir()
    runtime.build(tmp_path / "model.onnx", plan, tmp_path / "engine")
    (found,) = golden.run(runtime.open(tmp_path / "engine", plan), inputs(5))
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(inputs(5))).numpy(), atol=1e-5)


@pytest.mark.parametrize("recipe", ["x86-vnni", "ort-x86-vnni"])
def test_int8_around_them_leaves_them_float_and_names_them(exported, recipe):
    kind, module, model = exported
    found = post_training.quantize_model(model, ArraySamples(inputs(), np.zeros(48, int)), recipe, PostTraining())
    named = [(layer, reason) for layer, reason in found.quantize.placement.kept_float if f"/{kind}" in layer]
    assert len(named) == (2 if kind == "LSTM" else 1)
    assert {reason for _, reason in named} == {f"no recipe knows the operator {kind}"}
    (got,) = onnxruntime.InferenceSession(found.onnx().SerializeToString()).run(None, {"input": inputs()})
    with torch.no_grad():
        expected = module(torch.from_numpy(inputs())).numpy()
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_around_them_is_the_whole_with_the_channels_silent(kind):
    """In float64; the units of a recurrent layer stay, the columns that read what goes before it go with it."""
    module, example = Recurrent(kind).double().eval(), torch.randn(3, 10, 6, dtype=torch.float64)
    operation, _ = cut(module, example, rank_groups(module, example)[0], 0.25, 4)
    small, state = operation.apply(copy.deepcopy(module)), module.state_dict()
    for path, kept in operation.tensors.items():
        for dimension, indices in kept.items():
            lost = [i for i in range(state[path].shape[int(dimension)]) if i not in indices]
            state[path].index_fill_(int(dimension), torch.tensor(lost), 0.0)
    with torch.no_grad():
        torch.testing.assert_close(small(example), module(example), rtol=1e-9, atol=1e-9)
    assert small.before[0].weight.shape == (24, 6) and small.after[0].weight.shape[0] == 36
    assert small.recurrent.weight_hh_l0.shape == module.recurrent.weight_hh_l0.shape
