"""Detection: suppression and average precision by hand, the assignment, the loss, and what the task refuses."""

import math

import numpy as np
import pytest
import torch

from compress.data import Batch, Samples, Splits
from compress.models import detector
from compress.tasks import precision
from compress.tasks.assignment import assign
from compress.tasks.detection import Detection
from compress.tasks.precision import average_precision, detections, suppress
from profiles.errors import UserError


class Boxed(Samples):
    """Samples in memory: inputs (samples, 3, height, width) and targets (samples, most, 5)."""

    def __init__(self, targets, size=(64, 64), classes=("a", "b")):
        self.targets, self.size, self.classes = np.asarray(targets, np.float32), size, classes

    def __len__(self):
        return len(self.targets)

    def load(self, indices, augment=None):
        # the first pixel says which sample it is, so that a predictor can be made of the answers
        inputs = np.zeros((len(indices), 3, *self.size), np.float32)
        inputs[:, 0, 0, 0] = indices
        return Batch(inputs, self.targets[indices])

    def fingerprint(self):
        return self.targets.tobytes().hex()


TRUTH = [
    [[0, 8, 8, 24, 24], [1, 32, 16, 60, 60], [-1, 0, 0, 0, 0]],
    [[0, 40, 40, 56, 60], [0, 4, 30, 20, 44], [1, 30, 2, 62, 20]],
]


def says(answers):
    """A reader of outputs that are indices of samples: what is ``answers`` of each."""

    def read(outputs):
        return [np.asarray(answers[int(index)], np.float32).reshape(-1, 6) for index in outputs[0]]

    return read


def which(inputs):
    return [inputs[:, 0, 0, 0]]


def judged(answers, truth=TRUTH):
    return average_precision(says(answers), which, Boxed(truth))


# ----- suppression


def test_suppression_by_hand():
    """The first two overlap by 8 x 10 of 120: IoU 2/3. The third is of another class, the fourth elsewhere."""
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [0, 0, 10, 10], [30, 0, 40, 10]], float)
    scores, labels = np.array([0.6, 0.9, 0.5, 0.7]), np.array([0, 0, 1, 0])
    assert suppress(boxes, scores, labels, 0.6).tolist() == [1, 3, 2]
    assert suppress(boxes, scores, labels, 0.7).tolist() == [1, 3, 0, 2]


def test_suppression_is_not_transitive():
    """The middle box goes with the first; the last overlaps only the middle one, and stays."""
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], float)
    assert suppress(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3), 0.3).tolist() == [0, 2]


def test_suppression_of_nothing():
    assert suppress(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).tolist() == []
    assert detections(np.zeros((5, 4)), np.zeros((5, 2)), least_score=0.1, most_overlap=0.5).shape == (0, 6)


def test_detections_are_the_best_hundred_and_may_share_a_place():
    rng = np.random.default_rng(0)
    corners = np.stack([np.arange(200) * 10.0, np.zeros(200), np.arange(200) * 10 + 8.0, np.full(200, 8.0)], 1)
    scores = rng.random((200, 2))
    found = detections(corners, scores, least_score=0.05, most_overlap=0.5)
    np.testing.assert_allclose(found[:, 1], np.sort(scores.ravel())[::-1][:100], rtol=1e-6)
    label, score, *box = found[0]
    np.testing.assert_allclose(box, corners[np.argwhere(np.isclose(scores, score))[0, 0]])


# ----- average precision


def test_a_perfect_predictor_has_all_of_it():
    answers = [[[label, 0.9, *box] for label, *box in rows if label >= 0] for rows in TRUTH]
    found = judged(answers)
    assert found.value == pytest.approx(100)
    assert found.others == {"mAP@.5:.95": pytest.approx(100), "AP@.5 a": pytest.approx(100), "AP@.5 b": pytest.approx(100)}
    assert (found.name, found.unit, found.samples) == ("mAP@.5", "%", 2)


def test_average_precision_by_hand():
    """Class a, three objects: right (.9), wrong (.8), right (.7), one never found. Precision 1 up to recall 1/3, then
    2/3 up to 2/3, then 0; of COCO's 101 recalls 34 lie in the first third, 33 in the second. Class b is never found."""
    answers = [[[0, 0.9, 8, 8, 24, 24]], [[0, 0.8, 0, 0, 9, 9], [0, 0.7, 40, 40, 56, 60]]]
    expected = 100 * (34 * 1 + 33 * 2 / 3) / 101
    found = judged(answers)
    assert found.others["AP@.5 a"] == pytest.approx(expected)
    assert found.others["AP@.5 b"] == 0
    assert found.value == pytest.approx(expected / 2)


def test_thresholds_of_overlap_by_hand():
    """A box that covers 16 x 12 of 16 x 16: IoU .75, right at .5 to .75 (6 of 10 thresholds)."""
    found = judged([[[0, 0.9, 8, 8, 24, 20]]], [[[0, 8, 8, 24, 24]]])
    assert found.value == pytest.approx(100)
    assert found.others["mAP@.5:.95"] == pytest.approx(60)


def test_a_box_found_twice_counts_once_and_another_class_not_at_all():
    twice = [[[0, 0.9, 8, 8, 24, 24], [0, 0.95, 8, 8, 24, 24]]]
    assert judged(twice, [[[0, 8, 8, 24, 24]]]).value == pytest.approx(100)  # the second comes after full recall
    assert judged([[[1, 0.9, 8, 8, 24, 24]]], [[[0, 8, 8, 24, 24]]]).value == 0


def test_nothing_found_is_zero():
    assert judged([[], []]).value == 0


def test_both_evaluators_say_the_same(monkeypatch):
    """On pictures drawn at random: objects found, missed, found twice and where there is none."""
    if len(precision.evaluators()) < 2:
        pytest.skip("faster-coco-eval is not installed")
    rng = np.random.default_rng(0)

    def boxes(count):
        corner = rng.integers(0, 40, (count, 2))
        return np.hstack([rng.integers(0, 2, (count, 1)), corner, corner + rng.integers(4, 24, (count, 2))])

    truth = [boxes(5) for _ in range(20)]
    found = []
    for real in truth:
        rows = np.vstack([real + np.array([0, *rng.integers(-3, 4, 4)]), boxes(3), real[:2]])
        found.append(np.insert(rows.astype(float), 1, rng.random(len(rows)).round(1), axis=1))
    told = []
    for name in precision.EVALUATORS:
        monkeypatch.setattr(precision, "evaluators", lambda name=name: [name])
        told.append(judged(found, truth))
    assert told[0] == told[1]
    assert 5 < told[0].value < 95


# ----- reading outputs


def encoded(box, place, stride):
    """The four numbers by which a place says a box: the inverse of softplus of its distances in strides."""
    x, y = place
    away = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / stride
    return np.log(np.expm1(away))


def maps(objects, classes=2, size=64, strides=(8, 16)):
    """Outputs of a model that says ``objects``: label, box, number of the map, row and column of the place."""
    found = [np.full((1, 4 + classes, size // s, size // s), -9.0, np.float32) for s in strides]
    for label, box, number, row, column in objects:
        stride = strides[number]
        found[number][0, :4, row, column] = encoded(box, ((column + 0.5) * stride, (row + 0.5) * stride), stride)
        found[number][0, 4 + label, row, column] = 3.0
    return found


def test_outputs_are_read_as_documented():
    task = Detection(strides=[8, 16])
    small, large = (0, [8, 10, 27, 30], 0, 2, 1), (1, [3, 2, 61, 50], 1, 1, 2)
    (found,) = task.detect(maps([small, large]))
    np.testing.assert_array_equal(found[:, 0], [0, 1])
    np.testing.assert_allclose(found[:, 1], 1 / (1 + math.exp(-3)), rtol=1e-6)
    np.testing.assert_allclose(found[:, 2:], [small[1], large[1]], atol=1e-4)
    outputs = [torch.from_numpy(m) for m in maps([small, large])]
    assert task.logits(outputs).shape == (1, 64 + 16, 2)
    boxes = task.signals(outputs)["boxes"]
    assert boxes.shape == (1, 80, 4)
    np.testing.assert_allclose(boxes[0, 2 * 8 + 1], small[1], atol=1e-4)
    np.testing.assert_allclose(boxes[0, 64 + 1 * 4 + 2], large[1], atol=1e-4)


def test_an_engine_that_answers_is_judged():
    rows = [(0, [8, 10, 27, 30], 0, 2, 1)]
    samples = Boxed([[[0, 8, 10, 27, 30]], [[0, 8, 10, 27, 30]]])
    found = Detection(strides=[8, 16]).evaluate(lambda x: [np.repeat(m, len(x), 0) for m in maps(rows)], samples)
    assert found.value == pytest.approx(100)


# ----- the assignment and the loss

PLACES = torch.tensor([[4.0, 4, 8], [12, 4, 8], [4, 12, 8], [12, 12, 8], [8, 8, 16]])
"""A map of 2 x 2 places of stride 8, and one of a single place of stride 16."""


def test_the_place_that_fits_best_answers():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16], [0, 0, 16, 16]]])
    targets = torch.tensor([[[1.0, 0, 0, 8, 8], [0, 0, 0, 16, 16], [-1, 0, 0, 0, 0]]])
    made = assign(torch.full((1, 5, 2), 0.5), boxes, PLACES, targets)
    assert made.scores[0, 0].tolist() == [0, 1]  # answers for the small object, for its IoU is greater
    assert made.scores[0, 4].tolist() == [1, 0]
    assert made.boxes[0, 4].tolist() == [0, 0, 16, 16]
    others = made.scores[0, 1:4]
    assert (others[:, 1] == 0).all() and torch.allclose(others[:, 0], torch.tensor(0.25**3), rtol=1e-3)


def test_an_object_smaller_than_a_cell_still_has_places():
    boxes = torch.tensor([[[0.0, 0, 8, 8]] * 5])
    targets = torch.tensor([[[0.0, 9, 9, 11, 11]]])
    made = assign(torch.full((1, 5, 2), 0.5), boxes, PLACES, targets)
    assert made.scores[0, :, 0].max() == 1
    assert set(made.scores[0, :, 0].nonzero().flatten().tolist()) <= {3, 4}


def test_without_objects_nothing_answers_and_the_loss_is_finite():
    outputs = [torch.from_numpy(m).requires_grad_() for m in maps([])]
    loss = Detection(strides=[8, 16]).loss(outputs, torch.full((1, 3, 5), -1.0))
    loss.backward()
    assert loss.item() == pytest.approx(80 * 2 * math.log1p(math.exp(-9)), rel=0.01)
    assert all(torch.isfinite(m.grad).all() for m in outputs)


def test_the_right_answer_has_the_least_loss_and_rows_that_fill_up_change_nothing():
    target = [0.0, 8, 10, 27, 30]
    task, targets = Detection(strides=[8, 16]), torch.tensor([[target]])
    filled = torch.tensor([[target, [-1.0, 0, 0, 0, 0]]])

    def loss(rows, wanted=targets):
        return task.loss([torch.from_numpy(m) for m in maps(rows)], wanted).item()

    right = loss([(0, target[1:], 0, 2, 1)])
    assert loss([(0, target[1:], 0, 2, 1)], filled) == pytest.approx(right)
    assert right < loss([(0, [8, 10, 27, 40], 0, 2, 1)])
    assert right < loss([(1, target[1:], 0, 2, 1)])
    assert right < loss([(0, target[1:], 0, 2, 1), (1, [40, 40, 60, 60], 0, 6, 6)])
    assert right < loss([])


def test_it_learns():
    """A small detector finds bright squares of two kinds after a few steps: the loss falls to a half."""
    torch.manual_seed(0)
    model = detector(widths=(8, 16, 16), neck=16, blocks=1, scales=2, classes=2)
    task = Detection(strides=[8, 16])
    images, targets = squares(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = task.loss(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def squares(count, seed=0):
    rng = np.random.default_rng(seed)
    images, targets = rng.normal(0, 0.1, (count, 3, 64, 64)).astype(np.float32), np.zeros((count, 1, 5), np.float32)
    for image, target in zip(images, targets, strict=True):
        label, side = rng.integers(2), int(rng.integers(16, 28))
        x, y = rng.integers(0, 64 - side, 2)
        image[label, y : y + side, x : x + side] += 2
        target[0] = (label, x, y, x + side, y + side)
    return torch.from_numpy(images), torch.from_numpy(targets)


# ----- what it refuses


def splits(**parts):
    good = Boxed(TRUTH)
    return Splits(**{"train": good, "calibration": good, "validation": good, "test": good, "classes": ("a", "b"), **parts})


def test_good_data_passes_and_has_labels():
    task = Detection(strides=[8, 16])
    task.check(splits())
    assert task.has_labels(Boxed(TRUTH))
    assert not task.has_labels(Boxed([[[-1, 0, 0, 0, 0]]]))


def test_everything_that_is_wrong_with_data_is_told_at_once():
    bad = splits(
        train=Boxed([[[2, 1, 1, 9, 9]]]),
        calibration=Boxed(np.zeros((0, 1, 5))),
        validation=Boxed([[[-1, 0, 0, 0, 0]]]),
        test=Boxed([[[0, 10, 10, 90, 20]]]),
    )
    with pytest.raises(UserError) as caught:
        Detection().check(bad)
    words = "\n".join(caught.value.faults)
    assert "the train split has labels [2]; allowed: 0 to 1" in words
    assert "the calibration split is empty" in words
    assert "the validation split has no box; models are judged on it" in words
    assert "the test split has 1 boxes outside their inputs" in words


def test_targets_of_another_task_are_told():
    with pytest.raises(UserError, match="detection reads boxes of shape"):
        Detection().check(splits(train=Boxed(np.zeros((4, 5)))))


def test_outputs_that_it_cannot_read_are_told():
    task = Detection(strides=[8, 16])
    good = (torch.zeros(2, 6, 8, 8), torch.zeros(2, 6, 4, 4))
    task.check_outputs(good, splits())
    for bad in (good[:1], (torch.zeros(2, 7, 8, 8), good[1]), torch.zeros(2, 4), {}):
        with pytest.raises(UserError, match=r"detection of 2 classes with strides \[8, 16\].*own: "):
            task.check_outputs(bad, splits())


def test_settings_that_are_not_possible_are_told_at_once():
    with pytest.raises(UserError) as caught:
        Detection(strides=[16, 8], least_score=2, box_weight=-1)
    assert len(caught.value.faults) == 3
