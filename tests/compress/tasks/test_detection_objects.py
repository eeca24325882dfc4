"""Masks and keypoints of YOLO's heads: judged by pycocotools, learned, and held in a run's recovery."""

import math

import numpy as np
import pytest
import torch

from compress.data.base import ArraySamples
from compress.data.object_rows import joined
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.inputs import call
from compress.recipe.parse import load
from compress.tasks.detection import Detection
from compress.tasks.object_losses import keypoints_loss, masks_loss
from compress.tasks.object_precision import object_precision
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.processing.detection.base import Reading
from deploy.processing.detection.objects import Objects
from profiles.errors import UserError
from tests import instances


def rectangle(x1, y1, x2, y2):
    return [[x1, y1, 0], [x2, y1, 0], [x2, y2, 0], [x1, y2, 0]]


def samples(rows):
    images = np.zeros((len(rows), 3, 20, 20), np.float32)
    found = ArraySamples(images, np.stack(rows))
    found.classes = ("one", "two")
    return found


def answering(objects):
    given = iter(objects)
    return lambda outputs: [next(given) for _ in range(len(outputs[0]))]


def predicted(inputs):
    return [np.zeros(len(inputs))]


def found(labels, scores, boxes, masks=None, keypoints=None):
    rows = np.column_stack([labels, scores, np.reshape(boxes, (-1, 4))]).astype(np.float32)
    return Objects(rows=rows, masks=masks, keypoints=keypoints)


def masks_of(*boxes):
    masks = np.zeros((len(boxes), 20, 20), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def test_precision_of_masks_by_hand():
    """A mask of 10 x 10 found as 10 x 7: IoU 0.7, right at .5, .55 ... .7, five of ten; its box is right everywhere.

    Of the other class the first, surer one is nowhere and the second is the mask: precision 1/2 at each recall.
    """
    boxes = np.array([[0, 0, 0, 10, 10], [1, 5, 5, 9, 17]], np.float32)
    rows = joined(boxes, np.array([rectangle(0, 0, 10, 10), rectangle(5, 5, 9, 17)], np.float32), None)
    one = found(
        [1, 0, 1],
        [0.9, 0.8, 0.3],
        [(12, 0, 18, 4), (0, 0, 10, 10), (5, 5, 9, 17)],
        masks_of((12, 0, 18, 4), (0, 0, 10, 7), (5, 5, 9, 17)),
    )
    metric = object_precision(answering([one]), predicted, samples([rows]), "masks", (), draws=True)
    assert set(metric.drawn) == {metric.value}, "of one sample every draw is that sample"
    assert (metric.name, metric.unit) == ("mask mAP@.5", "%")
    assert metric.value == pytest.approx((100 + 50) / 2)
    assert metric.others["mAP@.5:.95"] == pytest.approx((50 + 50) / 2)
    assert metric.others["box mAP@.5"] == pytest.approx((100 + 50) / 2)
    assert metric.others["AP@.5 two"] == pytest.approx(50)


def test_precision_of_keypoints_by_hand():
    """One labelled point, 2 off, of a figure of 25 square pixels: OKS exp(-4 / (2 * 25 * 0.2^2)) = 0.135; 1 off: 0.61."""
    row = joined(np.array([[0, 0, 0, 5, 5]], np.float32), np.array([[[2, 2, 2], [9, 9, 0]]], np.float32), np.array([25.0]))
    assert math.exp(-1 / (2 * 25 * 0.04)) == pytest.approx(0.607, abs=1e-3)
    near, far = (
        found([0], [0.9], (0, 0, 5, 5), keypoints=np.array([[[2 + off, 2, 0.8], [0, 0, 0.9]]], np.float32)) for off in (1, 2)
    )
    for given, right in ((near, 3), (far, 0)):  # at .5, .55 and .6 of ten
        metric = object_precision(answering([given]), predicted, samples([row]), "keypoints", (0.1, 0.1), draws=True)
        assert metric.drawn == pytest.approx([metric.value] * len(metric.drawn)) and metric.drawn
        assert (metric.name, metric.value) == ("OKS AP", pytest.approx(10 * right))
        assert metric.others["box mAP@.5"] == pytest.approx(100)
    wider = object_precision(answering([far]), predicted, samples([row]), "keypoints", (0.3, 0.1))
    assert wider.value == pytest.approx(70), "exp(-4 / (2 * 25 * 0.6^2)) = 0.80"


def test_the_loss_of_keypoints_by_hand():
    """Areas 8 and 50, k = 2 sigma = 0.2 and 0.5; the second figure has one labelled point, right where it is."""
    boxes = np.zeros((2, 5), np.float32)
    wanted = np.array([[[1, 1, 2], [4, 4, 1]], [[3, 3, 2], [0, 0, 0]]], np.float32)
    rows = torch.from_numpy(joined(boxes, wanted, np.array([8.0, 50.0])))
    given = torch.tensor([[[1.0, 1.5, 0.8], [4.0, 6.0, 0.6]], [[3.0, 3.0, 0.5], [9.0, 9.0, 0.25]]])
    first = (1 - math.exp(-0.25 / (2 * 8 * 0.04)) + 1 - math.exp(-4 / (2 * 8 * 0.25))) / 2
    sure = -(math.log(0.8) + math.log(0.6) + math.log(0.5) + math.log(0.75)) / 4
    assert keypoints_loss(given, rows, (0.1, 0.25)).item() == pytest.approx((first + 0) / 2 + sure, rel=1e-5)


def test_the_loss_of_masks_by_hand():
    """A map of 2 x 2 cells of 8 pixels. The place's mask: logits ln 3 times (1, 0; 0, 2); the object is the left column."""
    prototypes = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    coefficients = torch.full((1, 3, 1), math.log(3))
    reading = Reading(boxes=None, coefficients=coefficients, prototypes=prototypes)
    row = joined(np.array([[1, 0, 0, 8, 16]], np.float32), np.array([rectangle(0, 0, 8, 16)], np.float32), None)
    targets = torch.from_numpy(row)[None]
    answers, owners = torch.tensor([[False, True, False]]), torch.zeros(1, 3, dtype=torch.long)
    expected = (-math.log(3 / 4) - math.log(1 / 2)) / 2  # inside the box two cells; its area is two
    assert masks_loss(reading, answers, owners, targets, (16, 16)).item() == pytest.approx(expected, rel=1e-6)
    wide = joined(np.array([[1, 0, 0, 16, 16]], np.float32), np.array([rectangle(0, 0, 8, 16)], np.float32), None)
    expected = (-math.log(3 / 4) - math.log(1 / 2) - math.log(1 / 2) - math.log(1 / 10)) / 4
    both = torch.tensor([[True, True, False]])
    assert masks_loss(reading, both, owners, torch.from_numpy(wide)[None], (16, 16)).item() == pytest.approx(expected)
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert masks_loss(reading, none, owners, targets, (16, 16)).item() == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return instances.write(tmp_path_factory.mktemp("instances") / "data", (48, 8, 12))


@pytest.mark.parametrize("objects", ["masks", "keypoints"])
def test_a_small_detector_learns_them_from_labels_and_another_from_it(objects, root, quiet, tmp_path):
    data = instances.splits(root, objects, zoom=0.1)
    task = Detection(objects=objects, head="yolo", strides=[8], sigmas=[0.1] * 3 if objects == "keypoints" else []).bound_to(
        data
    )
    task.check(data)
    torch.manual_seed(0)
    teacher, student = instances.Instances(objects), instances.Instances(objects, prototypes=4)
    trainer, schedule = Trainer(0, quiet), Schedule(epochs=16, batch_size=16, optimizer="adamw", learning_rate=0.004)
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    task.check_outputs(call(teacher.eval(), example), data)
    assert "come along" not in task.describe(call(teacher, example))

    def trained(module, losses, taught_by, name):
        objective = Objective(parse_losses(losses), task, module, taught_by, example)
        trainer.fit(name, module, objective, data.train, schedule, tmp_path / name)
        return task.evaluate(trainer.predictor(module), data.test)

    before = task.evaluate(trainer.predictor(teacher), data.test)
    metric = trained(teacher, ["task"], None, "teacher")
    assert before.value < 10 and metric.value > 50
    losses = list(task.usual_losses({"objects": objects})["recovery"])[1:]
    assert [each["use"] for each in losses] == ["bce_kd", "boxes", objects]
    taught = trained(student, losses, teacher.requires_grad_(False), "student")
    assert taught.value > 0.6 * metric.value, f"no label was read: {taught}"


def test_what_does_not_go_together_is_told(root, tmp_path):
    with pytest.raises(UserError, match=r"decode = 'graph' is of boxes alone; masks are made by decode = 'numpy'"):
        Detection(objects="masks", decode="graph")
    data = instances.splits(root, "masks")
    with pytest.raises(
        UserError, match=r"train split has targets of shape .*; detection reads keypoints and an area behind"
    ):
        Detection(objects="keypoints", head="yolo", strides=[8]).check(data)
    with pytest.raises(UserError, match=r"detection reads masks behind each box"):
        Detection(objects="masks").check(instances.splits(root, "boxes"))
    task = Detection(objects="masks", head="yolo", strides=[8]).bound_to(data)
    outputs = instances.Instances("keypoints").eval()(torch.zeros(2, 3, 32, 32))
    with pytest.raises(UserError, match=r"objects = 'masks', and the outputs hold keypoints"):
        task.check_outputs(outputs, data)
    figures = instances.splits(root, "keypoints")
    with pytest.raises(UserError, match="sigmas has a number for each keypoint, 3; given: 2"):
        Detection(objects="keypoints", sigmas=[0.1, 0.1]).check(figures)
    five = (*outputs[:2], torch.zeros(2, 15, 16))
    with pytest.raises(UserError, match="they hold 5 keypoints, and the data has 3"):
        Detection(objects="keypoints", head="yolo", strides=[8]).bound_to(figures).check_outputs(five, figures)
    plain = Detection(head="yolo", strides=[8]).bound_to(instances.splits(root, "boxes"))
    assert "its keypoints come along, which this task does not judge" in plain.describe(outputs)


def test_a_recipe_s_stages_hold_what_it_judges(tmp_path):
    (tmp_path / "r.toml").write_text(
        '[task]\nkind = { use = "detection", objects = "masks" }\n'
        'data = { use = "coco", path = "d", size = 32, objects = "masks" }\n'
        '[teacher]\nmodel = "m:n"\n[[stage]]\nuse = "distill"\n[[stage]]\nuse = "prune"\n'
    )
    distill, prune = load(str(tmp_path / "r.toml")).stages
    assert [spec.use for spec in distill.losses] == ["task", "bce_kd", "boxes", "cwd", "masks"]
    assert [spec.use for spec in prune.losses] == ["task", "bce_kd", "boxes", "masks"]


RECIPE = """
[task]
kind = { use = "detection", objects = "OBJECTS", head = "yolo", strides = [8], sigmas = SIGMAS }
data = { use = "coco", path = "DATA", size = 32, objects = "OBJECTS", calibration = 32 }
[teacher]
model = "tests.instances:Instances"
arguments = { objects = "OBJECTS" }
epochs = 25
batch_size = 16
optimizer = "adamw"
learning_rate = 0.004
[student]
from = "teacher"
width = 0.5
[budget]
accuracy_drop_points = 20
[measure]
seconds = 0.2
gate_seconds = 0.2
[[stage]]
use = "distill"
epochs = 20
batch_size = 16
optimizer = "adamw"
learning_rate = 0.004
[[stage]]
use = "quantize"
epochs = 2
attempt = "trained"
batch_size = 16
"""


@pytest.mark.slow
@pytest.mark.parametrize("objects", ["masks", "keypoints"])
def test_a_recipe_goes_through_distillation_int8_and_the_gate(objects, root, tmp_path, monkeypatch):
    """To a bundle that answers with masks or keypoints in the picture's pixels."""
    import compress
    from deploy.bundle.bundle import opened
    from deploy.processing import whole

    monkeypatch.chdir(tmp_path)
    sigmas = "[0.1, 0.1, 0.1]" if objects == "keypoints" else "[]"
    (tmp_path / "r.toml").write_text(RECIPE.replace("OBJECTS", objects).replace("DATA", str(root)).replace("SIGMAS", sigmas))
    report = compress.run("r.toml", device="cpu", engines=["onnxruntime"])
    assert report.teacher.metric.name == {"masks": "mask mAP@.5", "keypoints": "OKS AP"}[objects]
    rows = [row for row in report.rows if row.kind != "baseline"]
    assert min(row.metric.value for row in rows) > 40
    processing = whole.load(tmp_path / "runs/r-cpu/bundle")
    prepared = processing.prepare(instances.splits(root, objects).test.raw(0))
    with opened(tmp_path / "runs/r-cpu/bundle") as served:
        from deploy.engines.served import run

        outputs = list(run(served, prepared.inputs))
    answer = processing.answer(outputs, prepared)
    assert answer["detections"] and {"masks": "mask", "keypoints": "keypoints"}[objects] in answer["detections"][0]
