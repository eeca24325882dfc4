"""Segmentation: the metric and the loss worked by hand, maps of fewer pixels, and what does not fit; and a whole run."""

import json

import numpy as np
import pytest
import torch

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.tasks.segmentation import Segmentation, count_pixels, intersection_over_union
from profiles.errors import UserError
from tests import shapes


def samples(labels):
    labels = np.asarray(labels)
    return ArraySamples(np.zeros((len(labels), 3, *labels.shape[1:]), np.float32), labels)


def numbered(labels):
    """Samples whose inputs are their numbers."""
    inputs = np.arange(len(labels), dtype=np.float32)[:, None, None, None] * np.ones((1, 3, *labels.shape[1:]), np.float32)
    return ArraySamples(inputs, labels)


def splits(labels, classes=2):
    each = samples(labels)
    return Splits(train=each, calibration=each, validation=each, test=each, classes=tuple("abcdef"[:classes]))


def scores(found, classes=2):
    """Logits (samples, classes, height, width) that say ``found``."""
    return np.eye(classes, dtype=np.float32)[np.asarray(found)].transpose(0, 3, 1, 2)


def test_the_metric_by_hand():
    """Class 0: 2 pixels shared, 3 in either; class 1: 1 of 2; class 2 neither occurs nor is found; -1 does not count."""
    truth, found = [[[0, 0, 1, 1, -1]]], [[[0, 0, 0, 1, 1]]]
    metric = Segmentation().evaluate(lambda inputs: [scores(found, 3)], samples(truth))
    assert metric.value == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    others = {"pixels right": 75.0, "standard error": 0.0, "IoU 0": 200 / 3, "IoU 1": 50.0}
    assert metric.others == pytest.approx(others), "one image has no error by images"
    assert (metric.name, metric.unit, metric.samples) == ("mIoU", "%", 1)


def test_the_union_is_of_the_whole_split_and_not_of_each_image():
    confusion = count_pixels(np.array([0, 0]), np.array([0, 1]), 2) + count_pixels(np.array([1, 1]), np.array([1, 1]), 2)
    np.testing.assert_array_equal(confusion, [[1, 1], [0, 2]])
    np.testing.assert_allclose(intersection_over_union(confusion), [50, 100 * 2 / 3])


def test_the_standard_error_is_that_of_a_mean_where_the_metric_is_one():
    """Images of one class each, all or none of it found as itself: the IoU of both classes is the share of right images."""
    truth, found = np.zeros((400, 1, 2), int), np.zeros((400, 1, 2), int)
    truth[200:], found[200:300], found[300:], found[:100] = 1, 1, 0, 1
    metric = Segmentation().evaluate(lambda inputs: [scores(found[[int(x[0, 0, 0]) for x in inputs]])], numbered(truth))
    assert metric.value == pytest.approx(100 / 3)
    # IoU = right / (2 - right) for a share that is right: its slope at a half is 2 / 1.5^2
    assert metric.others["standard error"] == pytest.approx(100 * np.sqrt(0.25 / 400) * 2 / 1.5**2, rel=0.2)


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 1, 0, 3] = 50.0
    task = Segmentation()
    assert float(task.loss(logits, torch.tensor([[[0, -1, -1, 1]]]))) == pytest.approx(np.log(2) / 2)
    assert float(task.loss(logits, torch.full((1, 1, 4), -1))) == 0
    weighted = Segmentation(class_weights=[3.0, 1.0])
    assert float(weighted.loss(logits, torch.tensor([[[0, -1, -1, 1]]]))) == pytest.approx(3 * np.log(2) / 2)


def test_a_coarse_map_is_enlarged_for_loss_and_metric():
    """Between a pixel that is sure of 0 and one as sure of 1, the border is in the middle."""
    coarse = scores([[[0, 1]]])
    truth = [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    metric = Segmentation().evaluate(lambda inputs: [coarse], samples(truth))
    assert metric.value == 100.0
    assert float(Segmentation().loss(torch.from_numpy(100 * coarse), torch.tensor(truth))) < 1e-3


def test_what_does_not_fit_is_told():
    task = Segmentation()
    data = splits([[[0, 1], [1, -1]]])
    task.check(data)
    task.check_outputs({"out": torch.zeros(2, 2, 1, 1), "aux": torch.zeros(2, 9)}, data)
    with pytest.raises(UserError, match=r"gives \(2, 3, 2, 2\) .*segmentation of 2 classes reads \(2, 2, 2, 2\)"):
        task.check_outputs(torch.zeros(2, 3, 2, 2), data)
    with pytest.raises(UserError, match=r"labels \[3\]; allowed: 0 to 1, -1 for none"):
        task.check(splits([[[0, 3]]]))
    with pytest.raises(UserError, match="validation split has no labelled pixel"):
        task.check(splits([[[-1, -1]]]))
    with pytest.raises(UserError, match=r"reads a whole number for each pixel of the input, \(1, 1, 2\)"):
        task.check(splits([[[0.5, 1.0]]]))
    with pytest.raises(UserError, match="class_weights has a number for each class, 2; given: 1"):
        Segmentation(class_weights=[1.0]).check(data)


RECIPE = """
[task]
kind = "segmentation"
data = {{ use = "masks", path = "shapes", size = 32, classes = {classes}, calibration = 16 }}
[teacher]
model = "compress.models:unet"
arguments = {{ widths = [16, 32, 32], classes = 3 }}
epochs = 12
batch_size = 8
[student]
from = "teacher"
width = 0.5
[budget]
accuracy_drop_points = 20
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = 12
batch_size = 8
[[stage]]
use = "prune"
ratio = 0.2
epochs = 4
batch_size = 8
[[stage]]
use = "quantize"
epochs = 1
batch_size = 8
"""


@pytest.mark.slow
def test_a_run_with_the_losses_that_stages_have_unasked(compress_cli, tmp_path):
    shapes.write(tmp_path / "shapes", (64, 16, 16))
    (tmp_path / "r.toml").write_text(RECIPE.format(classes=shapes.CLASSES))
    done = compress_cli("run", "r.toml", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["teacher/openvino/fp32"]["metric"]["value"] > 80
    assert {"IoU ground", "IoU red", "IoU green"} < set(rows["teacher/openvino/fp32"]["metric"]["others"])
    for engine in ("openvino", "onnxruntime"):
        assert rows[f"student/{engine}/int8"]["metric"]["value"] > 70
    assert all(row["parity"]["cosine"] > 0.97 for row in rows.values())
    intervals = {name: row["drop_interval"] for name, row in rows.items()}
    assert intervals.pop("teacher/openvino/fp32") is None and all(low <= high for low, high in intervals.values())
    judged = next(row["reason"] for row in rows.values() if row["stage"] == "distill")
    assert " by 16 samples" in judged, "mean IoU has an interval in the gate's reasons"
