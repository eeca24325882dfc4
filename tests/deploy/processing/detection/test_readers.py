"""Readers of detectors' outputs: the same two objects through every form give the same boxes; what is wrong is told."""

import math

import numpy as np
import pytest
import torch

from deploy.processing.detection import READERS
from deploy.processing.detection.arrays import corners_of, log_odds, map_places, sigmoid, softmax, softplus
from deploy.processing.detection.base import Head
from deploy.processing.detection.choose import choose, describe, reader
from deploy.processing.detection.decode import Decoding
from profiles.errors import UserError

SIZE, STRIDES, CLASSES = (64, 64), (8, 16, 32), 3
OBJECTS = [(1, 0.9, [4.0, 8.0, 28.0, 32.0], 0, 2, 1), (2, 0.75, [16.0, 0.0, 64.0, 48.0], 1, 1, 2)]
"""Label, score, box, and who answers: map, row and column of the place, whose middle is at (12, 20) and (40, 24)."""
PLACES = map_places([(8, 8), (4, 4), (2, 2)], STRIDES)
PRIORS = np.concatenate([PLACES[:, :2] - PLACES[:, 2:] / 2, PLACES[:, :2] + PLACES[:, 2:] / 2], 1)
FACTS = Head(classes=CLASSES, size=SIZE, strides=STRIDES, priors=PRIORS)
NOTHING = -20.0


def at(number, row, column):
    """The index of a place over all maps, row by row: 64 on the first, 16 on the second."""
    return [0, 64, 80][number] + row * [8, 4, 2][number] + column


def logit(p):
    return math.log(p / (1 - p))


def sides(box, number, row, column):
    """Distances from the place to left, top, right, bottom in strides, worked by hand: 12 - 4 = 8 px = 1 stride, ..."""
    x, y = (column + 0.5) * STRIDES[number], (row + 0.5) * STRIDES[number]
    return np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / STRIDES[number]


def test_the_sides_by_hand():
    assert sides(*OBJECTS[0][2:]).tolist() == [1, 1.5, 2, 1.5]
    assert sides(*OBJECTS[1][2:]).tolist() == [1.5, 1.5, 1.5, 1.5]


def flat(channels, fill, rows):
    """(1, channels, 84): ``fill`` everywhere, and each object's numbers at its place."""
    made = np.full((1, channels, len(PLACES)), fill, np.float32)
    for (_, _, _, *where), values in zip(OBJECTS, rows, strict=True):
        made[0, :, at(*where)] = values
    return made


def as_maps(output):
    """(1, channels, 84) as a map for each stride."""
    parts = np.split(output, [64, 80], axis=2)
    return [part.reshape(1, -1, side, side) for part, side in zip(parts, (8, 4, 2), strict=True)]


def class_logits(fill=NOTHING):
    return [[logit(score) if label == own else fill for own in range(CLASSES)] for label, score, *_ in OBJECTS]


def class_scores():
    return [[score if label == own else 0.0 for own in range(CLASSES)] for label, score, *_ in OBJECTS]


def distribution(value, bins=16):
    """Logits of a distribution over whole strides whose mean is ``value``: two neighbours share it."""
    low = math.floor(value)
    made = np.full(bins, -40.0)
    made[low], made[low + 1] = math.log(max(1 - (value - low), 1e-12)), math.log(max(value - low, 1e-12))
    return made


def own():
    rows = [[*np.log(np.expm1(sides(*each[2:]))), *logits] for each, logits in zip(OBJECTS, class_logits(), strict=True)]
    return as_maps(flat(4 + CLASSES, NOTHING, rows))


def yolo_flat(bins=16):
    encode = (lambda v: distribution(v, bins)) if bins > 1 else (lambda v: [v])
    boxes = flat(4 * bins, 0.0, [np.concatenate([encode(v) for v in sides(*each[2:])]) for each in OBJECTS])
    return [boxes, flat(CLASSES, NOTHING, class_logits())]


def yolo():
    return [np.concatenate(each, axis=1) for each in zip(*map(as_maps, yolo_flat()), strict=True)]


def yolo_pairs(bins=16):
    boxes, scores = map(as_maps, yolo_flat(bins))
    return [each for pair in zip(scores, boxes, strict=True) for each in pair]


def yolo_distances():
    return [np.concatenate(each, axis=1) for each in zip(*map(as_maps, yolo_flat(1)), strict=True)]


def yolo_anchors(ndim=4):
    """Width 24 of an anchor of 33: (2 s)^2 = 24 / 33. Objectness .95, so classes of score / .95."""
    made = [np.full((1, 3, side, side, 5 + CLASSES), NOTHING, np.float32) for side in (8, 4, 2)]
    for label, score, box, number, row, column in OBJECTS:
        stride, (wide, high) = STRIDES[number], FACTS.anchors[number][2 if number == 0 else 1]
        x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
        place = made[number][0, 2 if number == 0 else 1, row, column]
        place[:2] = logit((x - column + 0.5) / 2), logit((y - row + 0.5) / 2)
        place[2:4] = logit(math.sqrt((box[2] - box[0]) / wide) / 2), logit(math.sqrt((box[3] - box[1]) / high) / 2)
        place[4], place[5 + label] = logit(0.95), logit(score / 0.95)
    return made if ndim == 5 else [np.moveaxis(m, 4, 2).reshape(1, -1, *m.shape[2:4]) for m in made]


def yolox():
    rows = []
    for label, score, box, number, row, column in OBJECTS:
        stride = STRIDES[number]
        middle = [(box[0] + box[2]) / 2 / stride - column, (box[1] + box[3]) / 2 / stride - row]
        logs = [math.log((box[2] - box[0]) / stride), math.log((box[3] - box[1]) / stride)]
        rows.append([*middle, *logs, logit(0.95), *[logit(score / 0.95) if label == c else NOTHING for c in range(CLASSES)]])
    return as_maps(flat(5 + CLASSES, NOTHING, rows))


def centre_and_size(box, scale=1.0):
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]) / scale


def decoded():
    return [flat(4 + CLASSES, 0.0, [[*centre_and_size(o[2]), *s] for o, s in zip(OBJECTS, class_scores(), strict=True)])]


def decoded_with_objectness():
    rows = [[*centre_and_size(o[2]), 0.95, *(np.array(s) / 0.95)] for o, s in zip(OBJECTS, class_scores(), strict=True)]
    return [np.moveaxis(flat(5 + CLASSES, 0.0, rows), 1, 2)]


def decoded_with_masks():
    rows = [[*centre_and_size(o[2]), *s, *np.ones(32)] for o, s in zip(OBJECTS, class_scores(), strict=True)]
    return [flat(4 + CLASSES + 32, 0.0, rows), np.zeros((1, 32, 16, 16), np.float32)]


def end_to_end():
    made = np.zeros((1, 300, 6), np.float32)
    for row, (label, score, box, *_) in zip((3, 0), OBJECTS, strict=True):
        made[0, row] = [*box, score, label]
    return [made]


def queries(logits_of_none, last=()):
    logits, boxes = np.full((1, 20, CLASSES + len(last)), logits_of_none, np.float32), np.full((1, 20, 4), 0.5, np.float32)
    logits[..., CLASSES:] = last
    return logits, boxes


def detr():
    logits, boxes = queries(NOTHING)
    for query, (_, _, box, *_), row in zip((7, 2), OBJECTS, class_logits(), strict=True):
        logits[0, query], boxes[0, query] = row, centre_and_size(box, 64)
    return [logits, boxes]


def detr_with_none():
    """A softmax: the class has p, none the rest."""
    logits, boxes = queries(NOTHING, [0.0])
    for query, (label, score, box, *_) in zip((7, 2), OBJECTS, strict=True):
        logits[0, query, label], boxes[0, query] = logit(score), centre_and_size(box, 64)
    return [logits, boxes]


def detr_in_one():
    logits, boxes = detr()
    return [np.concatenate([boxes, sigmoid(logits)], axis=2)]


def rfdetr():
    logits, boxes = detr()
    return [np.concatenate([logits, np.full((1, 20, 1), 9, np.float32)], axis=2), boxes]


def ssd():
    offsets, logits = np.zeros((1, 84, 4), np.float32), np.full((1, 84, 1 + CLASSES), NOTHING, np.float32)
    logits[..., 0] = 0
    for label, score, box, *where in OBJECTS:
        stride, (x, y) = STRIDES[where[0]], PLACES[at(*where), :2]
        middle, size = centre_and_size(box)[:2], centre_and_size(box)[2:]
        offsets[0, at(*where)] = [*(middle - [x, y]) / stride / 0.1, *np.log(size / stride) / 0.2]
        logits[0, at(*where), 1 + label] = logit(score)
    return [offsets, logits]


def corners():
    boxes, scores = np.zeros((1, 2, 4), np.float32), np.array([class_scores()], np.float32)
    boxes[0] = [box for _, _, box, *_ in OBJECTS]
    return [boxes, scores]


FORMS = {
    "own": ("own", own),
    "yolo: maps": ("yolo", yolo),
    "yolo: pairs of maps": ("yolo", yolo_pairs),
    "yolo: over all strides": ("yolo", yolo_flat),
    "yolo: pairs of distances": ("yolo", lambda: yolo_pairs(1)),
    "yolo: distances over all strides": ("yolo", lambda: yolo_flat(1)),
    "yolo_anchors": ("yolo_anchors", yolo_anchors),
    "yolo_anchors: five dimensions": ("yolo_anchors", lambda: yolo_anchors(5)),
    "yolox": ("yolox", yolox),
    "yolo_decoded": ("yolo_decoded", decoded),
    "yolo_decoded: objectness": ("yolo_decoded", decoded_with_objectness),
    "yolo_decoded: masks beside": ("yolo_decoded", decoded_with_masks),
    "end_to_end": ("end_to_end", end_to_end),
    "detr": ("detr", detr),
    "detr: none as a class": ("detr", detr_with_none),
    "detr: one output": ("detr", detr_in_one),
    "ssd": ("ssd", ssd),
}
NAMED = {"yolo": yolo_distances, "rfdetr": rfdetr, "corners": corners}


def decoding(head, facts=FACTS):
    return Decoding(head=head, facts=facts, classes=("a", "b", "c"), thresholds=(0.3,) * 3, most_overlap=0.6)


def is_right(found):
    assert found[:, 0].tolist() == [1, 2]
    np.testing.assert_allclose(found[:, 1], [0.9, 0.75], atol=1e-5)
    np.testing.assert_allclose(found[:, 2:], [each[2] for each in OBJECTS], atol=2e-3)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_objects_through_every_form_are_the_same_detections(form):
    head, make = FORMS[form]
    outputs = make()
    facts = FACTS if form == "ssd" else Head(classes=CLASSES, size=SIZE)
    assert choose("auto", [o.shape for o in outputs], facts) == head
    (found,) = decoding("auto", facts).detect(outputs)
    is_right(found)
    read = reader(head).read([torch.from_numpy(each) for each in outputs], facts)
    plain = reader(head).read(outputs, facts)
    np.testing.assert_allclose(read.boxes.numpy(), plain.boxes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read.scores.numpy(), plain.scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(read.logits.numpy(), plain.logits, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("head", NAMED)
def test_forms_whose_shapes_say_too_little_are_read_by_name(head):
    (found,) = decoding(head).detect(NAMED[head]())
    is_right(found)


def test_every_reader_is_shown_here():
    assert {head for head, _ in FORMS.values()} | set(NAMED) == set(READERS)


def test_two_samples_are_read_apart():
    outputs = [np.concatenate([np.full_like(each, NOTHING), each]) for each in yolo()]
    nothing, found = decoding("yolo").detect(outputs)
    assert nothing.shape == (0, 6)
    is_right(found)


def test_a_class_has_its_own_threshold():
    strict = Decoding(head="yolo", facts=FACTS, classes=("a", "b", "c"), thresholds=(0.3, 0.3, 0.8), most_overlap=0.6)
    assert strict.detect(yolo())[0][:, 0].tolist() == [1]
    assert strict.detect(yolo(), 0.5)[0][:, 0].tolist() == [1, 2]


def test_queries_are_not_suppressed_and_places_are():
    """Two answers for one object: of places the better one stays, queries are one answer for each object by themselves."""
    logits, boxes = detr()
    logits[0, 8], boxes[0, 8] = logits[0, 7] - 1, boxes[0, 7]
    assert len(decoding("detr").detect([logits, boxes])[0]) == 3
    twice = decoded()
    twice[0][0, :, 0] = twice[0][0, :, at(0, 2, 1)]
    assert len(decoding("yolo_decoded").detect(twice)[0]) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_no_number_or_huge_ones_are_no_detections(form, value):
    """Whatever an engine gives, every detection is six finite numbers, and what was right elsewhere stays."""
    head, make = FORMS[form]
    for part in range(len(make())):
        outputs = make()
        outputs[part][...] = value
        with np.errstate(all="ignore"):
            (found,) = decoding(head).detect(outputs)
        assert found.shape[1] == 6 and np.isfinite(found).all()
        assert ((found[:, 1] >= 0) & (found[:, 1] <= 1)).all()


def test_one_place_of_no_number_leaves_the_others():
    for head, make in (("yolo", yolo), ("own", own), ("yolox", yolox)):
        outputs = make()
        outputs[0][0, :, 7, 7] = np.nan
        is_right(decoding(head).detect(outputs)[0])


def test_empty_outputs_are_told():
    for outputs in ([], [np.zeros((1, 0, 0), np.float32)], [np.zeros(0, np.float32)], [np.zeros((), np.float32)]):
        with pytest.raises(UserError, match="no head with 3 classes"):
            decoding("auto").detect(outputs)
    (found,) = decoding("end_to_end").detect([np.zeros((1, 0, 6), np.float32)])
    assert found.shape == (0, 6)


def test_what_no_reader_reads_is_told_with_what_each_would():
    with pytest.raises(UserError) as caught:
        choose("auto", [(1, 7, 9, 9)], Head(classes=CLASSES, size=SIZE))
    assert "outputs (1, 7, 9, 9): no head with 3 classes, inputs of (64, 64)" in str(caught.value)
    assert "detr: " in str(caught.value) and "yolo_decoded: " in str(caught.value)
    with pytest.raises(UserError, match="head 'yolo' reads one map"):
        choose("yolo", [(1, 7, 9, 9)], FACTS)
    with pytest.raises(UserError, match="unknown head 'yolov8'.*known: "):
        choose("yolov8", [(1, 7, 9, 9)], FACTS)
    with pytest.raises(UserError, match="head 'ssd' reads priors"):
        choose("ssd", [(1, 84, 4), (1, 84, 4)], Head(classes=CLASSES, size=SIZE))


def test_a_model_of_other_classes_is_not_taken_for_one_of_these():
    for shapes in ([(1, 84, 8400)], [(1, 89, 8, 8), (1, 89, 4, 4), (1, 89, 2, 2)], [(1, 300, 80), (1, 300, 4)]):
        with pytest.raises(UserError, match="no head with 3 classes"):
            choose("auto", shapes, FACTS)


def test_what_was_chosen_is_told_with_what_else_would_read_it():
    shapes = [each.shape for each in own()]
    words = describe(choose("auto", shapes, FACTS), shapes, FACTS)
    assert words.startswith(
        "outputs are read as head 'own' (a map of 4 + classes channels for each stride); yolo would read"
    )
    assert "would read" not in describe("yolo", [each.shape for each in yolo()], FACTS)


def test_gradients_reach_the_outputs():
    for form, (head, make) in FORMS.items():
        outputs = [torch.from_numpy(each).requires_grad_() for each in make()]
        read = reader(head).read(outputs, FACTS)
        (read.boxes.sum() + read.logits.sum()).backward()
        assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in outputs), form
        assert all(each.grad is None or torch.isfinite(each.grad).all() for each in outputs), form


def test_arithmetic_is_the_same_for_arrays_and_tensors():
    values = np.linspace(-90, 90, 37, dtype=np.float32).reshape(1, 37)
    for function in (sigmoid, softmax, softplus):
        np.testing.assert_allclose(function(torch.from_numpy(values)).numpy(), function(values), rtol=1e-5, atol=1e-7)
    assert log_odds(np.array([0.0, 0.5, 1.0])).round(2).tolist() == [-13.82, 0, 13.82]
    assert corners_of(np.array([[5.0, 6]]), np.array([[4.0, 2]])).tolist() == [[3, 5, 7, 7]]
