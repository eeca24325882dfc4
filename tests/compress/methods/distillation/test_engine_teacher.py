"""A teacher that answers from an engine says what the module says, and shows what it shows inside."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from compress.execution.cache import StepCache
from compress.execution.progress import StreamProgress
from compress.methods.distillation.engine_teacher import EngineTeacher, EngineTeachers
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.features import FeatureHooks
from compress.pipeline.cached_model import CachedModel
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from compress.tasks.classification import Classification
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


def engine_teachers(module: nn.Module, example: torch.Tensor, asked: str = "openvino/fp32") -> EngineTeachers:
    return EngineTeachers(module.eval(), asked, example, blobs(21))


def engine_of(module: nn.Module, example: torch.Tensor, runtime: str = "openvino") -> EngineTeacher:
    return engine_teachers(module, example, f"{runtime}/fp32").teacher_for()


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


@pytest.mark.parametrize(("asked", "allowed"), [("openvino/fp32", 1e-3), ("onnxruntime/fp32", 1e-3), ("openvino/int8", 0.1)])
def test_it_shows_the_layers_that_are_asked_for(example, asked, allowed):
    """Among them one behind a batch norm that is folded, one whose batch norm cannot be for it, and the same one twice."""
    module = small_model(2, width=1.0).eval()
    layers = ["layer1", "conv1", "layer2.0.bn1", "layer3.0", "layer1.0"]
    teacher = engine_teachers(module, example, asked).teacher_for(layers, "linear")
    images = torch.from_numpy(blobs(9).images)
    with torch.no_grad(), FeatureHooks(module, layers, "linear") as known:
        module(images)
        teacher(images)
        pairs = [*zip(teacher.features(), known.features(), strict=True), (teacher.embedding(), known.embedding())]
        for found, true in pairs:
            assert found.shape == true.shape
            assert float((found - true).norm() / true.norm()) < allowed


def test_losses_ask_the_engine_for_outputs_layers_and_embeddings(example):
    student, module = small_model(1).eval(), small_model(2, width=1.0)
    loud = small_model(4, width=1.0).eval()  # another network in the engine shows who was asked
    engines = engine_teachers(loud, example)
    targets = torch.tensor([0, 1])
    for losses in (["kd", "attention"], ["attention", "rkd"]):
        asked = parse_losses(losses)
        with Objective(asked, Classification(), student, module, example, engine_teachers=engines) as objective:
            found = objective.teacher_signals(example, targets)
            loss, _ = objective(student, example, targets)
        with Objective(asked, Classification(), student, loud, example) as objective:
            known = objective.teacher_signals(example, targets)
            expected, _ = objective(student, example, targets)
        assert found.keys() == known.keys()
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


def test_a_loss_of_labels_alone_makes_no_engine(example):
    class Refuses:
        def teacher_for(self, names, head):
            raise AssertionError("no loss reads the teacher")

    labels = parse_losses(["task"])
    with Objective(labels, Classification(), small_model(1), None, example, engine_teachers=Refuses()) as objective:
        assert objective.frozen() == []


def test_an_engine_that_is_not_here_is_named(example, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[teacher\] engine: openvino cannot run here: openvino is not installed"):
        engine_of(small_model(1), example)


def recipe(**teacher):
    model = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "width": 0.5, "in_channels": 1, "classes": 4}}
    table = {"task": {"data": "tests.conftest:blob_splits"}, "teacher": {**model, "epochs": 1, **teacher}}
    stage = {"use": "distill", "epochs": 1, "losses": ["kd", "cwd"]}
    return parse({**table, "stage": [stage]}, name="x", source="x.toml")


def test_a_recipe_asks_for_it_and_faults_are_named():
    assert recipe(engine="openvino/int8").teacher.engine == "openvino/int8"
    with pytest.raises(UserError, match="engine"):
        recipe(engine="tensorrt/int8")
    with pytest.raises(UserError, match="engine: for teachers with source code that read no labels"):
        recipe(engine="openvino/int8", labelled={})


def test_a_stage_is_taught_by_int8_and_its_result_is_known_by_it(tmp_path):
    keys, said = [], io.StringIO()
    quiet = StreamProgress(said)
    for engine in (None, "openvino/int8"):
        shop = ModelBuilder(recipe(engine=engine), load_profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
        teacher = shop.teacher()
        made = shop.attempt(shop.recipe.stages[0], teacher, teacher)
        keys.append(made.step.key)
        assert isinstance(made, CachedModel)
        outputs = made.artifact.module(shop.example)
        assert np.isfinite(outputs.detach().numpy()).all()
    assert keys[0] != keys[1]
    assert "answers from openvino/int8" in said.getvalue()
