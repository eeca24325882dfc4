"""Several teachers, and the choice among them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from compress.methods.distillation.ensemble import FlipAveraging, TeacherEnsemble
from compress.methods.distillation.similarity import cka, ensemble_shares, parc
from compress.models.checkpoint import save_tensors
from compress.models.features import FeatureHooks
from compress.recipe.parse import load, parse
from profiles.errors import UserError
from tests.conftest import ArraySamples, blob_splits, small_model


class Says(torch.nn.Module):
    def __init__(self, *probabilities):
        super().__init__()
        self.logs = torch.tensor([probabilities]).log()

    def forward(self, x):
        return self.logs.expand(len(x), -1)


def test_a_committee_is_the_weighted_mean_of_probabilities():
    inputs = torch.zeros(3, 1)
    mean = TeacherEnsemble([Says(0.9, 0.1), Says(0.5, 0.5)], [1.0, 1.0])(inputs).exp()
    torch.testing.assert_close(mean, torch.tensor([[0.7, 0.3]]).expand(3, 2))
    weighted = TeacherEnsemble([Says(0.9, 0.1), Says(0.5, 0.5)], [3.0, 1.0])(inputs).exp()
    torch.testing.assert_close(weighted, torch.tensor([[0.8, 0.2]]).expand(3, 2))


def test_a_committee_of_one_says_what_it_says():
    model, x = small_model(1).eval(), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(TeacherEnsemble([model], [2.0])(x), model(x).log_softmax(1))


def test_a_committee_is_for_class_scores(example):
    dense = torch.nn.Conv2d(1, 4, 1)
    with pytest.raises(UserError, match="several teachers, and a mirrored one, are for classification"):
        TeacherEnsemble([dense, dense], [1, 1])(example)


class Pixels(torch.nn.Module):
    """Two classes at each pixel, of which the input's brightness is the first's probability; at ``step`` pixels each."""

    def __init__(self, step=1, power=1):
        super().__init__()
        self._step, self._power = step, power

    def forward(self, x):
        share = x[:, :1, :: self._step, :: self._step] ** self._power
        return torch.cat([share, 1 - share], 1).log()


def test_a_committee_of_segmentation_is_the_mean_at_each_pixel():
    image = torch.tensor([[[[0.5, 0.8], [0.1, 0.4]]]])
    both = TeacherEnsemble([Pixels(), Pixels(power=2)], [3.0, 1.0], maps=True)(image).exp()[:, 0]
    torch.testing.assert_close(both, (3 * image[:, 0] + image[:, 0] ** 2) / 4)
    coarse = TeacherEnsemble([Pixels(), Pixels(step=2)], [1.0, 1.0], maps=True)(image).exp()[:, 0]
    torch.testing.assert_close(coarse, (image[:, 0] + 0.5) / 2, msg="the one pixel of the second stands for all")
    twice = FlipAveraging(Pixels(), maps=True)(image).exp()[:, 0]
    torch.testing.assert_close(twice, image[:, 0], msg="each pixel says the same in the mirror")
    with pytest.raises(UserError, match=r"of segmentation \(samples, classes, rows, columns\); given: \[\(1, 2\)"):
        TeacherEnsemble([Says(0.9, 0.1), Says(0.5, 0.5)], [1, 1], maps=True)(torch.zeros(1, 1))


class Left(torch.nn.Module):
    """How bright the left column is decides: (samples, 1, 2, 2) to (samples, 2)."""

    def forward(self, x):
        share = x[..., 0].mean((1, 2))
        return torch.stack([share, 1 - share], 1).log()


def test_a_mirrored_teacher_says_the_same_of_an_image_and_of_its_mirror():
    image = torch.tensor([[[[0.9, 0.3], [0.7, 0.1]]]])  # 0.8 on the left, 0.2 on the right
    said = FlipAveraging(Left())(image)
    torch.testing.assert_close(said.exp(), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(said, FlipAveraging(Left())(image.flip(-1)))
    brighter = torch.tensor([[[[0.9, 0.5], [0.9, 0.5]]]])
    torch.testing.assert_close(FlipAveraging(Left())(brighter).exp(), torch.tensor([[0.7, 0.3]]))


def test_what_losses_read_inside_a_mirrored_teacher_is_of_the_image_itself():
    model, x = small_model(1).eval(), torch.randn(4, 1, 16, 16)
    with torch.no_grad(), FeatureHooks(model, ["layer2"]) as taps:
        model(x)
        alone = taps.features()[0]
    with torch.no_grad(), FeatureHooks(mirrored := FlipAveraging(model), ["teacher.layer2"]) as taps:
        mirrored(x)
        torch.testing.assert_close(taps.features()[0], alone)


def test_a_mirrored_teacher_is_for_images():
    with pytest.raises(UserError, match="mirrored is for images"):
        FlipAveraging(Says(0.9, 0.1))(torch.zeros(3, 1))


def test_parc_by_hand():
    """Distances by labels are 0 within a class and 2 between two; features that rank them alike correlate by 1."""
    labels = np.array([0, 0, 1, 1])
    apart = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert parc(apart, labels) == pytest.approx(1)
    crossed = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    # pairs in order 01 02 03 12 13 23: labels 0 2 2 2 2 0, features 2 0 2 2 0 2: correlation -1/2
    assert parc(crossed, labels) == pytest.approx(-0.5)
    assert parc(np.ones((4, 3)), labels) == 0


def test_cka_by_hand():
    labels = np.array([0, 0, 1, 1])
    assert cka(np.array([[1.0], [1], [-1], [-1]]), labels) == pytest.approx(1)
    assert cka(np.array([[1.0], [-1], [1], [-1]]), labels) == pytest.approx(0)
    both = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert cka(both, labels) == pytest.approx(1 / math.sqrt(2))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    assert cka(3 * both @ turn, labels) == pytest.approx(1 / math.sqrt(2))


def test_shares():
    assert ensemble_shares([0.6, 0.2, -0.5]) == pytest.approx([0.75, 0.25, 0])
    assert ensemble_shares([0.6, 0.2], power=2.0) == pytest.approx([0.9, 0.1])
    assert ensemble_shares([-1.0, 0.0]) == [0.5, 0.5]


@pytest.fixture
def several(tmp_path):
    """A recipe with two teachers: one that was trained on the blobs, one that was not."""
    from compress.execution.progress import StreamProgress
    from compress.methods.distillation.objective import Objective, parse_losses
    from compress.tasks.classification import Classification
    from compress.training.schedule import Schedule
    from compress.training.trainer import Trainer

    data, models = blob_splits(), {"trained": small_model(1, 1.0), "fresh": small_model(2, 1.0)}
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    objective = Objective(parse_losses(["task"]), Classification(), models["trained"], None, example)
    schedule = Schedule(epochs=6, batch_size=32)
    Trainer(0, StreamProgress(open("/dev/null", "w"))).fit(
        "x", models["trained"], objective, data.train, schedule, tmp_path / "fit"
    )
    for name, model in models.items():
        save_tensors(tmp_path / f"{name}.safetensors", model.state_dict())
    path = tmp_path / "several.toml"
    path.write_text(
        """
[task]
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = { blocks = 1, width = 1.0, in_channels = 1, classes = 4 }
weights = "fresh.safetensors"
[[teacher.also]]
model = "compress.models:resnet"
arguments = { blocks = 1, width = 1.0, in_channels = 1, classes = 4 }
weights = "trained.safetensors"
share = 3.0
[student]
from = "teacher"
width = 0.5
[[stage]]
use = "distill"
epochs = 1
batch_size = 32
losses = [
    { use = "kd", weight = { use = "gradient_share", share = 0.5, every = 1 } },
    { use = "attention", layers = [["layer2", "teachers.0.layer2"]] },
]
"""
    )
    return path


def test_the_trained_teacher_is_ranked_first(several, tmp_path, monkeypatch):
    from compress.cli.teachers import teachers

    monkeypatch.setenv("COMPRESS_STEPS", str(tmp_path / "steps"))
    done = CliRunner().invoke(teachers, ["rank", str(several), "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    rows = json.loads(done.stdout[done.stdout.index("[") :])
    assert "trained" in rows[0]["teacher"] and rows[0]["parc"] > rows[1]["parc"] + 0.02
    assert rows[0]["cka"] > rows[1]["cka"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def even_splits():
    """Blobs and their mirror images laid over each other."""

    def even(samples):
        batch = samples.load(np.arange(len(samples)))
        return ArraySamples(batch.inputs + batch.inputs[..., ::-1], batch.targets)

    splits = blob_splits()
    parts = {name: even(getattr(splits, name)) for name in ("train", "calibration", "validation", "test")}
    return replace(splits, **parts)


@pytest.mark.slow
def test_a_stage_learns_from_all_teachers(several, tmp_path, quiet):
    """Who teaches, and by what share, is part of a step's key; the run compresses the first."""
    from compress.execution.cache import StepCache
    from compress.pipeline.model_builder import ModelBuilder
    from profiles.device import load as profile

    def attempt(recipe):
        builder = ModelBuilder(recipe, profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
        teacher = builder.teacher()
        return teacher, builder.attempt(recipe.stages[0], builder.student(teacher, recipe.student), teacher)

    several.write_text(
        several.read_text().replace("tests.conftest:blob_splits", "tests.compress.pipeline.test_teachers:even_splits")
    )
    both = attempt(load(str(several)))
    other = several.with_name("other.toml")
    other.write_text(several.read_text().replace("share = 3.0", "share = 1.0"))
    equal = attempt(load(str(other)))
    looked = several.with_name("mirrored.toml")
    looked.write_text(
        several.read_text()
        .replace("share = 3.0", "share = 1.0")
        .replace('weights = "fresh.safetensors"', 'weights = "fresh.safetensors"\nmirrored = true\nengine = "openvino/fp32"')
        .replace("teachers.0.layer2", "teacher.teachers.0.layer2")
    )
    twice = attempt(load(str(looked)))
    assert both[0] == equal[0] == twice[0]
    assert twice[1] not in (both[1], equal[1])
    assert both[1] != equal[1]
    states = [made.artifact.module.state_dict() for _, made in (both, equal)]
    assert any(not torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_teachers_whose_images_mean_something_else_mirrored_are_refused(several, tmp_path, quiet):
    """A blob on the left is of another class than one on the right."""
    from compress.execution.cache import StepCache
    from compress.pipeline.model_builder import ModelBuilder
    from profiles.device import load as profile

    text = several.read_text().replace("fresh.safetensors", "trained.safetensors")
    several.write_text(
        text.replace('weights = "trained', 'mirrored = true\nweights = "trained', 1).replace("share = 3.0", "")
    )
    recipe = load(str(several))
    builder = ModelBuilder(recipe, profile("cpu"), StepCache(tmp_path / "steps", quiet), quiet)
    teacher = builder.teacher()
    with pytest.raises(UserError, match=r"validation 100.00 -> [4-6]\d\.\d\d; the images' mirror"):
        builder.attempt(recipe.stages[0], builder.student(teacher, recipe.student), teacher)


def test_faults_of_further_teachers():
    table = {
        "task": {"data": "digits"},
        "teacher": {"model": "compress.models:resnet20", "also": [{"model": "compress.models:resnet20", "share": 0}]},
    }
    with pytest.raises(UserError) as caught:
        parse(table, name="x", source="x.toml")
    words = str(caught.value)
    assert "weights" in words and "share" in words
