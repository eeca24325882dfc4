"""A teacher that reads labels: what it reads, that it starts as the teacher, that the student is taught by it."""

import copy
import json

import numpy as np
import pytest
import torch

from compress.data.base import ArraySamples
from compress.execution.cache import StepCache
from compress.methods.distillation.label_teacher import (
    LabelAssistedTeacher,
    LabelledSamples,
    add_label_channel,
    append_labels,
    teacher_inputs,
)
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.factory import factory
from compress.pipeline.model_builder import ModelBuilder
from compress.recipe.parse import parse
from profiles.device import load as load_profile
from profiles.errors import UserError
from tests.conftest import ROOT, small_model

SETTINGS = {"scale": 2.0, "noise": 0.0}
SEGMENTATION = ROOT / "examples" / "segmentation.py"


class Seen(torch.nn.Module):
    """Gives the channel that it reads for labels."""

    def forward(self, x):
        return x[:, -1:]


def labels(*rows):
    return torch.tensor([rows])


def test_each_class_of_an_image_is_a_number_and_what_has_no_label_is_zero():
    targets = torch.cat([labels([0, 1], [1, -1]), labels([1, 1], [0, -1])])
    images = torch.randn(2, 1, 2, 2)
    found = LabelAssistedTeacher(Seen(), channels=1, **SETTINGS).eval()(append_labels(images, targets))[:, 0]
    assert found[0, 0, 1] == found[0, 1, 0] != found[0, 0, 0]
    assert found[0, 1, 1] == found[1, 1, 1] == 0
    assert found[1, 0, 0] == found[1, 0, 1] != found[0, 0, 1], "drawn anew for each image, so the number tells no class"


def test_the_numbers_are_standard_normal_times_the_scale():
    torch.manual_seed(0)
    module = LabelAssistedTeacher(Seen(), channels=1, scale=2.0, noise=0.5).train()
    found = module(append_labels(torch.randn(4000, 1, 1, 2), torch.zeros(4000, 1, 2, dtype=torch.long)))[:, 0, 0]
    assert float(found.mean()) == pytest.approx(0, abs=0.1)
    assert float(found.std()) == pytest.approx(2 * np.sqrt(1 + 0.25), rel=0.03)
    assert float((found[:, 0] - found[:, 1]).std()) == pytest.approx(2 * 0.5 * np.sqrt(2), rel=0.05)


def test_equal_questions_have_equal_answers_and_training_draws():
    given = append_labels(torch.randn(2, 1, 4, 4), torch.arange(32).reshape(2, 4, 4) % 3)
    module = LabelAssistedTeacher(Seen(), channels=1, scale=1.0, noise=0.03).eval()
    assert torch.equal(module(given), module(given))
    module.train()
    assert not torch.equal(module(given), module(given))


def test_it_starts_as_the_teacher_whatever_the_labels(example):
    teacher = small_model().eval()
    module = add_label_channel(copy.deepcopy(teacher), example, SETTINGS)
    given = append_labels(example, torch.randint(0, 4, (2, 16, 16)))
    torch.testing.assert_close(module(given), teacher(example))
    torch.testing.assert_close(module(example), teacher(example))


def test_maps_of_another_size_are_taken_by_the_nearest_pixel():
    found = append_labels(torch.zeros(1, 3, 4, 4), labels([0, 1], [2, -1]))
    assert found.shape == (1, 4, 4, 4)
    assert found[0, 3].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, -1, -1], [2, 2, -1, -1]]


def test_samples_carry_their_labels(data):
    images, masks = np.zeros((3, 1, 2, 2), np.float32), np.arange(12).reshape(3, 2, 2)
    batch = LabelledSamples(ArraySamples(images, masks)).load(np.array([2]))
    assert batch.inputs[0].tolist() == [[[0, 0], [0, 0]], [[8, 9], [10, 11]]]
    with pytest.raises(UserError, match=r"is for images whose targets are maps of labels.*, targets \(1,\); leave it out"):
        LabelledSamples(data.train).load(np.array([0]))


def test_a_model_whose_images_go_elsewhere_is_refused(example):
    with pytest.raises(UserError, match="one convolution without groups; given: none"):
        add_label_channel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4)), example, SETTINGS)


def test_the_objective_shows_it_the_labels():
    task, data = factory(f"{SEGMENTATION}:Segmentation")(), factory(f"{SEGMENTATION}:digit_masks")()
    batch = data.train.load(np.arange(2))
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    torch.manual_seed(0)
    teacher = add_label_channel(factory(f"{SEGMENTATION}:encoder_decoder")(), inputs, SETTINGS).eval()
    with torch.no_grad():
        teacher.inner.stem[0].weight.normal_()
    student = factory(f"{SEGMENTATION}:encoder_decoder")(width=0.5)
    with Objective(parse_losses(["kd", "cwd"]), task, student, teacher, inputs) as objective:
        said = [objective.teacher_signals(inputs, t)["teacher_logits"] for t in (targets, torch.full_like(targets, -1))]
        with torch.no_grad():
            torch.testing.assert_close(said[0], teacher(append_labels(inputs, targets)).movedim(1, -1))
        assert (said[0] - said[1]).abs().max() > 0.01
        total, _ = objective(student, inputs, targets)
        total.backward()
    assert teacher_inputs(student, inputs, targets) is inputs


RECIPE = {
    "task": {"data": "digits"},
    "teacher": {"model": "compress.models:resnet", "weights": "a.pth", "labelled": {"epochs": 3}},
}


def test_a_recipe_names_what_is_wrong():
    assert parse(RECIPE, name="x", source="x.toml").teacher.labelled.epochs == 3
    also = [{"model": "compress.models:resnet", "weights": "b.pth"}]
    wrong = {**RECIPE, "teacher": {**RECIPE["teacher"], "also": also}}
    with pytest.raises(UserError, match="labelled: a copy of the one teacher, so neither beside others"):
        parse(wrong, name="x", source="x.toml")
    wrong = {**RECIPE, "teacher": {**RECIPE["teacher"], "labelled": {"scales": 3}}}
    with pytest.raises(UserError, match=r"\[teacher.labelled\]: unknown key 'scales' \(did you mean 'scale'\?\)"):
        parse(wrong, name="x", source="x.toml")


def test_data_without_maps_of_labels_is_refused_before_anything_is_trained(tmp_path, quiet):
    model = {"model": "compress.models:resnet", "arguments": {"blocks": 1, "in_channels": 1, "classes": 4}}
    table = {"task": {"data": "tests.conftest:blob_splits"}, "teacher": {**model, "labelled": {"epochs": 1}}}
    recipe = parse(table, name="x", source=str(tmp_path / "x.toml"))
    with pytest.raises(UserError, match="is for images whose targets are maps of labels"):
        ModelBuilder(recipe, load_profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet).check()


@pytest.mark.slow
def test_a_run_is_taught_by_it(compress_cli, tmp_path):
    recipe = f"""
[task]
kind = "{SEGMENTATION}:Segmentation"
data = "tests.bench.catalogue:noisy_masks"
[teacher]
model = "{SEGMENTATION}:encoder_decoder"
epochs = 6
batch_size = 32
labelled = {{ epochs = 6 }}
[student]
from = "teacher"
width = 0.5
[[stage]]
use = "distill"
epochs = 2
batch_size = 32
losses = ["task", {{ use = "cwd", weight = 3.0 }}]
"""
    (tmp_path / "labelled.toml").write_text(recipe)
    done = compress_cli("run", "labelled.toml", "--json")
    assert done.returncode in (0, 3), done.stderr
    before, after = done.stderr.partition("reads labels: validation ")[2].split()[0:3:2]
    assert float(after) > float(before), "labels at its input tell it where digits are"
    again = compress_cli("run", "labelled.toml", "--json")
    assert "reads labels" not in again.stderr, "it is made once"
    assert json.loads(again.stdout)["rows"]
