"""Keypoints: both heads decoded and trained by known answers, average precision by hand, and a whole run."""

import json
import math

import numpy as np
import pytest
import torch

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.tasks.keypoints import Keypoints
from deploy.processing.postprocessing.points import read_points
from profiles.errors import UserError
from tests import figures

POINTS = np.array([[8.5, 4.5, 2], [24.5, 12.5, 1], [0, 0, 0]], np.float32)
TARGET = np.concatenate([POINTS, [[100.0, 32, 16]]]).astype(np.float32)
"""Two labelled points of three, on a figure of 100 square pixels in an input of 32 x 16."""


def samples(targets):
    targets = np.asarray(targets, np.float32)
    return ArraySamples(np.zeros((len(targets), 1, 16, 32), np.float32), targets)


def heatmaps(points, rows=16, columns=32, spread=1.5):
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    scale = np.array([columns / 32, rows / 16])
    each = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2)) for px, py in points[:, :2] * scale]
    return np.stack(each).astype(np.float32)


def test_heatmaps_are_read_to_a_quarter_of_a_place():
    found = read_points(heatmaps(POINTS)[None], np.array([[32, 16]]), 3)
    np.testing.assert_allclose(found[0, :2, :2], POINTS[:2, :2], atol=1e-6)
    coarse = read_points(heatmaps(POINTS + np.array([1.0, 0, 0]), 8, 16)[None], np.array([[32, 16]]), 3)
    np.testing.assert_allclose(coarse[0, :2, :2], POINTS[:2, :2] + [1.0, 0], atol=0.51)
    assert (coarse[0, :2, 2] > 0.9).all()


def test_places_are_shares_of_the_sides_flat_or_not():
    places = POINTS.copy()
    places[:, :2] /= (32, 16)
    places[:, 2] = 0.0
    for given in (places[None], places[None].reshape(1, 9), places[None, :, :2], places[None, :, :2].reshape(1, 6)):
        found = read_points(given, np.array([[32, 16]]), 3)
        np.testing.assert_allclose(found[0, :, :2], POINTS[:, :2], atol=1e-5)
    assert read_points(places[None], np.array([[32, 16]]), 3)[0, 0, 2] == 0.5


def test_the_loss_of_what_is_right_and_of_what_says_nothing():
    task, target = Keypoints(), torch.from_numpy(TARGET)[None]
    right = torch.from_numpy(heatmaps(POINTS))[None]
    assert float(task.loss(right, target)) == pytest.approx(0, abs=1e-9)
    assert float(task.loss(torch.zeros_like(right), target)) == pytest.approx(1, abs=0.02), "a Gaussian's whole energy"
    wrong = right.clone()
    wrong[0, 2] += 5
    assert float(task.loss(wrong, target)) == pytest.approx(0, abs=1e-9), "what is not labelled is not learnt"
    places = torch.from_numpy(POINTS[:, :2] / (32, 16))[None].float()
    assert float(task.loss(places, target)) == pytest.approx(0, abs=1e-9)
    off = places + torch.tensor([0.1, 0.0])
    assert float(task.loss(off, target)) == pytest.approx(0.5, abs=1e-5), "a tenth of the side is one, Huber's half square"
    sure = torch.cat([off, torch.zeros(1, 3, 1)], dim=2)
    assert float(task.loss(sure, target)) == pytest.approx(0.5 + math.log(2), abs=1e-5)


def test_distilled_values_have_the_unit_of_the_loss():
    """The mean square of scaled heatmaps is, for a teacher that is right, the loss of a student that says nothing."""
    task, right = Keypoints(), torch.from_numpy(heatmaps(POINTS[:2]))[None]
    assert float(task.logits(right).square().mean()) == pytest.approx(1, abs=0.02)


def test_average_precision_by_hand():
    """Similarity is exp(-d^2 / (2 area (2 sigma)^2)): with 0.1 of 100 square pixels, 3 pixels off have exp(-9/8) = 0.32,
    and 1 off exp(-1/8) = 0.88, which is right at 8 of the 10 thresholds."""
    truth = np.stack([TARGET] * 2)
    exact, near, far = (POINTS + np.array([off, 0, 0]) for off in (0.0, 1.0, 3.0))
    task = Keypoints(sigmas=[0.1] * 3)

    def judged(*found):
        places = np.stack([points[:, :2] / (32, 16) for points in found]).astype(np.float32)
        return task.evaluate(lambda inputs: [places], samples(truth))

    assert judged(exact, exact).value == pytest.approx(100)
    assert judged(near, near).value == pytest.approx(80)
    assert judged(far, far).value == pytest.approx(0)
    metric = judged(near, near)
    assert metric.others == pytest.approx({"AP@.5": 100, "AP@.75": 100, "mean distance px": 1.0}, abs=1e-4)
    assert (metric.name, metric.unit, metric.samples) == ("AP", "%", 2)


def test_what_does_not_fit_is_told():
    each = samples([TARGET, TARGET])
    data = Splits(train=each, calibration=each, validation=each, test=each, classes=("a", "b", "c"))
    task = Keypoints()
    task.check(data)
    for right in (torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 2), torch.zeros(2, 9)):
        task.check_outputs(right, data)
    with pytest.raises(UserError, match=r"gives \(2, 4, 4, 8\) for two samples; keypoints of 3 points reads heatmaps"):
        task.check_outputs(torch.zeros(2, 4, 4, 8), data)
    with pytest.raises(UserError, match=r"gives \(2, 2, 3\)"):
        task.check_outputs(torch.zeros(2, 2, 3), data)
    with pytest.raises(UserError, match="sigmas has a number for each point, 3; given: 1"):
        Keypoints(sigmas=[0.1]).check(data)
    bad = samples([TARGET[1:], TARGET[1:]])
    with pytest.raises(UserError, match=r"reads \(samples, 4, 3\): a row a point, and area, width and height"):
        task.check(Splits(train=bad, calibration=bad, validation=bad, test=bad, classes=("a", "b", "c")))


RECIPE = """
[task]
kind = "keypoints"
data = {{ use = "coco_keypoints", path = "figures", size = [64, 48], calibration = 16 }}
[teacher]
model = "compress.models:{model}"
arguments = {arguments}
epochs = {epochs}
batch_size = 8
optimizer = "adamw"
learning_rate = 0.005
[student]
from = "teacher"
width = 0.75
[budget]
accuracy_drop_points = 30
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = {epochs}
batch_size = 8
optimizer = "adamw"
learning_rate = 0.005
[[stage]]
use = "quantize"
epochs = 1
batch_size = 8
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments", "epochs", "least"),
    [
        ("unet", "{ widths = [16, 32, 32], stride = 2, classes = 5 }", 24, 60),
        ("vgg", "{ widths = [16, 32, 64, 64], blocks = [1, 1, 1, 1], classes = 10 }", 40, 25),
    ],
)
def test_a_run_with_heatmaps_and_one_with_places(compress_cli, tmp_path, model, arguments, epochs, least):
    figures.write(tmp_path / "figures", (64, 16, 16))
    (tmp_path / "r.toml").write_text(RECIPE.format(model=model, arguments=arguments, epochs=epochs))
    done = compress_cli("run", "r.toml", "--json")
    assert done.returncode in (0, 3), done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row["metric"] for row in report["rows"]}
    assert [[loss["use"] for loss in stage["losses"]] for stage in report["recipe"]["stages"]] == [["task", "l2"]] * 2
    assert rows["teacher/openvino/fp32"]["value"] > least
    assert rows["teacher/openvino/fp32"]["others"]["mean distance px"] < 6
