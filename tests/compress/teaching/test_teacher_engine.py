"""A teacher that answers from an engine says what the module says, and only where outputs are what losses read."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from compress.made import Made
from compress.progress import StreamProgress
from compress.recipe import parse
from compress.tasks.classification import Classification
from compress.teaching.objective import Objective, parse_losses
from compress.teaching.teacher_engine import EngineTeacher
from compress.workshop import Workshop
from compress.workspace import Workspace
from deploy.export import capture, to_onnx
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.conftest import blobs, small_model


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_model(3)

    def forward(self, x):
        logits = self.net(x)
        return {"scores": logits, "sum": logits.sum(1)}


def engine_of(module: nn.Module, example: torch.Tensor, runtime: str = "openvino") -> EngineTeacher:
    return EngineTeacher(module, to_onnx(capture(module.eval(), [example])), example, runtime, "fp32")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_it_answers_as_the_module_does_whatever_the_batch(example, runtime):
    module = TwoOutputs().eval()
    teacher = engine_of(module, example, runtime)
    images = torch.from_numpy(blobs(21).images)
    for count in (8, 21, 3):  # of the first batch's size, more, less
        with torch.no_grad():
            said, known = teacher(images[:count]), module(images[:count])
        assert said.keys() == known.keys()
        for name in known:
            torch.testing.assert_close(said[name], known[name], rtol=1e-3, atol=1e-4)


def test_losses_of_outputs_ask_the_engine_and_those_of_layers_the_module(example):
    student, module = small_model(1).eval(), small_model(2, width=1.0)
    loud = small_model(4, width=1.0)  # another network in the engine shows who was asked
    engine = engine_of(loud, example)
    kd, attention = parse_losses(["kd"]), parse_losses(["kd", "attention"])
    targets = torch.tensor([0, 1])
    for losses, expected in ((kd, loud), (attention, module)):
        with Objective(losses, Classification(), student, module, example, answering=engine) as objective:
            found = objective.ask_teacher(example, targets)["teacher_logits"]
        with torch.no_grad():
            torch.testing.assert_close(found, expected.eval()(example), rtol=1e-3, atol=1e-4)


def test_an_engine_that_is_not_here_is_named(example, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[teacher\] engine: openvino cannot run here: openvino is not installed"):
        engine_of(small_model(1), example)


def recipe(**teacher):
    model = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "width": 0.5, "in_channels": 1, "classes": 4}}
    table = {"task": {"data": "tests.conftest:blob_splits"}, "teacher": {**model, "epochs": 1, **teacher}}
    stage = {"use": "distill", "epochs": 1, "losses": ["kd"]}
    return parse({**table, "stage": [stage]}, name="x", source="x.toml")


def test_a_recipe_asks_for_it_and_faults_are_named():
    assert recipe(engine="openvino/int8").teacher.engine == "openvino/int8"
    with pytest.raises(UserError, match="engine"):
        recipe(engine="tensorrt/int8")
    with pytest.raises(UserError, match="engine: for one teacher with source code that reads no labels"):
        recipe(engine="openvino/int8", also=[{"model": "compress.models:resnet", "weights": "b.pth"}])


def test_a_stage_is_taught_by_int8_and_its_result_is_known_by_it(tmp_path):
    keys, said = [], io.StringIO()
    quiet = StreamProgress(said)
    for engine in (None, "openvino/int8"):
        shop = Workshop(recipe(engine=engine), load_profile("cpu"), Workspace(tmp_path / "steps", quiet), quiet)
        teacher = shop.teacher()
        made = shop.attempt(shop.recipe.stages[0], teacher, teacher)
        keys.append(made.step.key)
        assert isinstance(made, Made)
        outputs = made.artifact.module(shop.example)
        assert np.isfinite(outputs.detach().numpy()).all()
    assert keys[0] != keys[1]
    assert "answers from openvino/int8" in said.getvalue()
