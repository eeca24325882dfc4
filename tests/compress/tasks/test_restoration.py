"""Restoration: decibels, likeness and errors by hand and by scipy, missing values, and a whole run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.tasks.restoration import MOST_DB, Restoration, decibels, structural_similarity
from profiles.errors import UserError
from tests import shapes


def samples(targets):
    targets = np.asarray(targets, np.float32)
    return ArraySamples(np.zeros((len(targets), 3, *targets.shape[2:]), np.float32), targets)


def splits(targets):
    each = samples(targets)
    return Splits(train=each, calibration=each, validation=each, test=each, classes=())


def judged(found, targets, **options):
    return Restoration(**options).evaluate(lambda inputs: [np.asarray(found, np.float32)], samples(targets))


def test_decibels_by_hand():
    assert decibels(0.01, 1.0) == pytest.approx(20) and decibels(1.0, 255.0) == pytest.approx(48.1308, abs=1e-4)
    assert decibels(0.0, 1.0) == MOST_DB == decibels(1e-12, 1.0)


def test_the_metric_is_the_mean_of_the_samples_and_the_error_that_of_all_values():
    """Off by 0.1 everywhere is 20 dB, by 0.01 40 dB; the square errors' mean is 0.00505."""
    metric = judged([[[[0.1, 0.1]]], [[[0.01, 0.01]]]], np.zeros((2, 1, 1, 2)))
    assert metric.value == pytest.approx(30, abs=1e-4) and metric.unit == "dB" and metric.samples == 2
    assert metric.others == pytest.approx({"RMSE": np.sqrt(0.00505), "standard error": 10 / np.sqrt(2)}, abs=1e-4)
    assert Restoration().full_scale == 100, "a point of a budget is a decibel"


def test_missing_values_borders_and_luminance():
    target, found = np.zeros((1, 1, 3, 3)), np.full((1, 1, 3, 3), 0.1)
    target[0, 0, 1, 2] = np.nan
    found[0, 0, 1, 2] = 9.0
    assert judged(found, target).value == pytest.approx(20, abs=1e-4), "what is missing is not judged"
    found[0, 0, 0, 0] = 9.0
    assert judged(found, target, border=1).value == pytest.approx(20, abs=1e-4), "nor is the border"
    colours = np.zeros((1, 3, 2, 2))
    green = colours.copy()
    green[:, 1] = 0.1
    assert judged(green, colours).value == pytest.approx(20 + 10 * np.log10(3), abs=1e-3)
    assert judged(green, colours, luminance=True).value == pytest.approx(-20 * np.log10(0.1 * 128.553 / 255), abs=1e-3)
    assert judged(2 * found, target, peak=2.0, border=1).value == pytest.approx(20, abs=1e-4)


def test_likeness_is_that_of_scipys_gaussians():
    ndimage = pytest.importorskip("scipy.ndimage")
    y, x = np.mgrid[0:24, 0:20]
    a = np.stack([(np.sin(x / 3) + 1) / 2, (np.cos(y / 4) + 1) / 2, ((x + y) % 7) / 6])
    b = np.clip(a + 0.1 * np.sin(x * y / 5), 0, 1)

    def blurred(values):
        return np.stack([ndimage.gaussian_filter(each, 1.5, truncate=3.5) for each in values])[:, 5:-5, 5:-5]

    mean_a, mean_b = blurred(a), blurred(b)
    spread = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2 + 0.03**2
    shared = (2 * mean_a * mean_b + 0.01**2) * (2 * (blurred(a * b) - mean_a * mean_b) + 0.03**2)
    expected = (shared / ((mean_a**2 + mean_b**2 + 0.01**2) * spread)).mean()
    assert structural_similarity(a, b, 1.0) == pytest.approx(expected, abs=1e-9) and 0.90 < expected < 0.901
    assert structural_similarity(a, a, 1.0) == pytest.approx(1)
    assert judged(a[None], a[None].astype(np.float32)).others["SSIM"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [("l1", 0.3), ("l2", 0.09), ("huber", 0.1 * (0.3 - 0.05)), ("charbonnier", np.sqrt(0.09 + 1e-6) - 1e-3)],
)
def test_the_loss_by_hand_leaves_out_what_is_missing(error, expected):
    outputs = torch.full((1, 1, 1, 3), 0.3, requires_grad=True)
    loss = Restoration(error=error).loss(outputs, torch.tensor([[[[0.0, 0.0, torch.nan]]]]))
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert torch.isfinite(outputs.grad).all() and outputs.grad[0, 0, 0, 2] == 0


def test_what_does_not_fit_is_told():
    Restoration().check(splits(np.zeros((2, 1, 4, 4))))
    with pytest.raises(UserError, match=r"targets up to 3, above peak = 1 of \[task\] kind"):
        Restoration().check(splits(np.full((2, 1, 4, 4), 3.0)))
    with pytest.raises(UserError, match="test split has no value in any target"):
        Restoration().check(splits(np.full((2, 1, 4, 4), np.nan)))
    with pytest.raises(UserError, match="border of 2 pixels leaves nothing of targets of 4x4"):
        Restoration(border=2).check(splits(np.zeros((2, 1, 4, 4))))
    with pytest.raises(UserError, match=r"gives \(2, 3, 4, 4\) for two samples; .* reads \(2, 1, 4, 4\)"):
        Restoration().check_outputs(torch.zeros(2, 3, 4, 4), splits(np.zeros((2, 1, 4, 4))))
    with pytest.raises(UserError, match="(?s)peak is the largest.*border is a number"):
        Restoration(peak=0.0, border=-1)


RECIPE = """
[task]
kind = { use = "restoration", border = 2 }
data = { use = "pairs", path = "photos", degrade = true, enlarge = 2, size = 16, calibration = 16 }
[teacher]
model = "compress.models:upscaler"
arguments = { channels = 16, layers = 3 }
epochs = 20
batch_size = 8
optimizer = "adamw"
learning_rate = 0.003
[student]
from = "teacher"
width = 0.5
[budget]
accuracy_drop_points = 3
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = 20
batch_size = 8
optimizer = "adamw"
learning_rate = 0.003
[[stage]]
use = "quantize"
epochs = 1
batch_size = 8
"""


@pytest.mark.slow
def test_a_run_without_class_scores(compress_cli, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 48), ("val", 12), ("test", 12)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(shapes.draw(rng, 48)[0] // 60 * 60)  # flat shapes with sharp edges
            picture.save(tmp_path / "photos" / part / f"{number}.png")
    (tmp_path / "r.toml").write_text(RECIPE)
    done = compress_cli("run", "r.toml", "--json")
    assert done.returncode in (0, 3), done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row["metric"] for row in report["rows"]}
    assert [[loss["use"] for loss in stage["losses"]] for stage in report["recipe"]["stages"]] == [["task", "l1"]] * 2
    teacher = rows["teacher/openvino/fp32"]
    assert teacher["name"] == "PSNR" and teacher["value"] > 22
    assert set(teacher["others"]) == {"RMSE", "SSIM", "standard error"}
    assert abs(rows["teacher/openvino/int8"]["value"] - rows["teacher/onnxruntime/int8"]["value"]) < 1
