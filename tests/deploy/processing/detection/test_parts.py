"""Masks and keypoints of YOLO heads: the same two objects through every form; masks by hand and by COCO's own counts."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from torch.nn import functional

from deploy.processing.detection.arrays import sigmoid
from deploy.processing.detection.base import Head
from deploy.processing.detection.choose import choose
from deploy.processing.detection.decode import Decoding, load
from deploy.processing.detection.objects import mask_of, run_lengths
from deploy.processing.detection.parts import maps_apart
from deploy.processing.postprocessing.boxes import described
from deploy.processing.preprocessing.base import Window
from profiles.errors import UserError
from tests.deploy.processing.detection.test_readers import (
    CLASSES,
    OBJECTS,
    PLACES,
    SIZE,
    STRIDES,
    as_maps,
    at,
    centre_and_size,
    class_scores,
    flat,
    is_right,
    yolo_flat,
)

HEAD = Head(classes=CLASSES, size=SIZE)
POINTS = [[[10.0, 22.0, 0.8], [30.0, 12.0, 0.4]], [[40.0, 24.0, 0.6], [4.0, 60.0, 0.3]]]
"""Two keypoints of each object, in pixels, and their scores."""
COEFFICIENTS = [[1.0, 0.0, 0.5, 0.5, 0.5], [-1.0, 0.0, 0.5, 0.5, 0.5]]
AREAS = [24 * 24, 32 * 48]
"""The first is left of 32 and its box wholly; the second right of 32 in its box from 16 to 64, 48 high."""


def prototypes():
    """Of five: left of column 8 of 16 is 1 and right of it -1; the others are noise that nothing weighs, and nothing."""
    made = np.zeros((1, 5, 16, 16), np.float32)
    made[0, 0] = np.where(np.arange(16) < 8, 1.0, -1.0)
    made[0, 1] = np.random.default_rng(0).normal(size=(16, 16))
    return made


def logit(p):
    return np.log(p / (1 - p))


def raw_points(direct=False):
    """What the head gives for the points, worked from its definition: (2 k + cell) stride, or (k + middle) stride."""
    made = []
    for points, (_, _, _, number, row, column) in zip(POINTS, OBJECTS, strict=True):
        stride, numbers = STRIDES[number], []
        for x, y, score in points:
            away = (x / stride - column, y / stride - row)
            numbers += [*([a - 0.5 for a in away] if direct else [a / 2 for a in away]), logit(score)]
        made.append(numbers)
    return made


def with_points(bins=16):
    return [*yolo_flat(bins), flat(6, 0.0, raw_points(bins == 1))]


def with_masks():
    return [*yolo_flat(), flat(5, 0.0, COEFFICIENTS), prototypes()]


def apart(outputs, order):
    """The flat outputs as maps, those of one stride in another order; prototypes first."""
    maps = [as_maps(each) for each in outputs if each.ndim == 3]
    return [*(each for each in outputs if each.ndim == 4), *(maps[kind][stride] for kind in order for stride in range(3))]


def decoded(numbers):
    rows = zip(OBJECTS, class_scores(), numbers, strict=True)
    return flat(4 + CLASSES + len(numbers[0]), 0.0, [[*centre_and_size(o[2]), *scores, *more] for o, scores, more in rows])


def end_to_end(numbers):
    made = np.zeros((1, 300, 6 + len(numbers[0])), np.float32)
    for row, (label, score, box, *_), more in zip((3, 0), OBJECTS, numbers, strict=True):
        made[0, row] = [*box, score, label, *more]
    return made


def plain():
    return np.array(POINTS).reshape(2, 6).tolist()


WITH_POINTS = {
    "over all strides": ("yolo", with_points, 0),
    "distances over all strides": ("yolo", lambda: with_points(1), 2),
    "maps": ("yolo", lambda: apart(with_points(), (1, 0, 2)), 0),
    "maps, keypoints first": ("yolo", lambda: apart(with_points(), (2, 1, 0)), 2),
    "decoded": ("yolo_decoded", lambda: [decoded(plain())], 2),
    "end to end": ("end_to_end", lambda: [end_to_end(plain())], 2),
}
WITH_MASKS = {
    "over all strides": ("yolo", with_masks),
    "maps": ("yolo", lambda: apart(with_masks(), (2, 0, 1))),
    "decoded": ("yolo_decoded", lambda: [decoded(COEFFICIENTS), prototypes()]),
    "end to end": ("end_to_end", lambda: [end_to_end(COEFFICIENTS), prototypes()]),
}


def decoding(points=0):
    head = Head(classes=CLASSES, size=SIZE, points=points)
    return Decoding(head="auto", facts=head, classes=("a", "b", "c"), thresholds=(0.3,) * 3, most_overlap=0.6)


@pytest.mark.parametrize("form", WITH_POINTS)
def test_the_same_keypoints_through_every_form(form):
    name, make, points = WITH_POINTS[form]
    outputs = make()
    assert choose("auto", [each.shape for each in outputs], decoding(points).facts) == name
    (found,) = decoding(points).objects(outputs)
    is_right(found.rows)
    np.testing.assert_allclose(found.keypoints, POINTS, atol=1e-4)
    assert found.masks is None


@pytest.mark.parametrize("form", WITH_MASKS)
def test_the_same_masks_through_every_form(form):
    name, make = WITH_MASKS[form]
    outputs = make()
    assert choose("auto", [each.shape for each in outputs], HEAD) == name
    (found,) = decoding().objects(outputs)
    is_right(found.rows)
    assert found.masks.sum(axis=(1, 2)).tolist() == AREAS and found.keypoints is None
    assert found.masks[1, :48, 32:].all(), "right of 32, to row 48"


def test_a_mask_is_the_sum_interpolated_as_torch_does_and_cut_to_its_box():
    random = np.random.default_rng(1)
    weights, prototypes_ = random.normal(size=4).astype(np.float32), random.normal(size=(4, 5, 7)).astype(np.float32)
    fine = functional.interpolate(torch.einsum("p,phw->hw", *map(torch.from_numpy, (weights, prototypes_)))[None, None],
                                  (40, 56), mode="bilinear")[0, 0].numpy()  # fmt: skip
    found = mask_of(weights, prototypes_, np.array([3.2, 8.0, 50.5, 33.0]), (40, 56))
    wanted = np.zeros((40, 56), bool)
    wanted[8:33, 3:50] = fine[8:33, 3:50] > 0  # 3.5 is the first middle from 3.2 on, 49.5 the last before 50.5
    assert np.array_equal(found, wanted) and 0 < found.sum() < 25 * 47
    assert not mask_of(np.full(4, np.nan), prototypes_, np.array([0, 0, 56, 40]), (40, 56)).any()


def test_runs_are_cocos():
    random = np.random.default_rng(2)
    for height, width, share in ((1, 1, 0), (1, 1, 1), (3, 5, 0.5), (6, 2, 0.2), (4, 4, 1.0)):
        mask = random.random((height, width)) < share
        counts = run_lengths(mask)
        packed = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        assert np.array_equal(coco_masks.decode(packed).astype(bool), mask) and sum(counts) == mask.size


def test_a_sum_of_four_keypoints_is_told_from_a_distribution_by_the_usual_bins():
    """12 channels are 4 keypoints, or 3 bins a side: boxes have 64. Alone of their size, the prototypes are found."""
    shapes = [(1, 12, 8, 8), (1, 64, 8, 8), (1, 2, 8, 8), (1, 12, 16, 16)]
    found = maps_apart(shapes, Head(classes=2, strides=(8,)))
    assert (found.boxes, found.scores, found.parts, found.prototypes) == ((1,), (2,), (0,), 3)
    assert maps_apart(shapes[:3], Head(classes=2, strides=(8,), points=4)).parts == (0,)
    assert maps_apart(shapes[:3], Head(classes=2, strides=(8,), points=5)) is None, "another number of keypoints"
    assert maps_apart([*shapes[:3], (1, 8, 16, 16)], Head(classes=2, strides=(8,))) is None, "8 prototypes, 12 coefficients"
    alike = [(1, 64, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 16, 16)]
    assert maps_apart(alike, Head(classes=3, strides=(8,))) is None, "scores or coefficients: it is not guessed"


def test_what_is_no_keypoint_is_told():
    boxes, scores = yolo_flat()
    with pytest.raises(UserError, match="no head"):
        decoding().objects([boxes, scores, flat(5, 0.0, np.zeros((2, 5)))])
    with pytest.raises(UserError, match="9 channels of 3 keypoints"):
        decoding(3).objects(with_points())
    with pytest.raises(UserError, match="5 coefficients a place, as there are prototypes"):
        decoding().objects([boxes, scores, flat(4, 0.0, np.zeros((2, 4))), prototypes()])


def test_the_number_of_keypoints_is_in_decode_json(tmp_path):
    (tmp_path / "decode.json").write_text(json.dumps({**decoding(2).as_json(), "head": "yolo_decoded"}))
    (found,) = load(tmp_path).objects([decoded(plain())])
    np.testing.assert_allclose(found.keypoints, POINTS, atol=1e-4)
    (tmp_path / "decode.json").write_text(json.dumps({**decoding().as_json(), "head": "yolo_decoded", "points": 10**9}))
    with pytest.raises(UserError, match="points are 0 to 1000"):
        load(tmp_path)


def test_torch_reads_them_as_numpy_does():
    from deploy.processing.detection.choose import reader

    outputs = with_points()
    read = reader("yolo").read([torch.from_numpy(each) for each in outputs], HEAD)
    np.testing.assert_allclose(read.keypoints[0, at(*OBJECTS[0][3:])].numpy(), POINTS[0], atol=1e-4)
    assert read.keypoints.shape == (1, len(PLACES), 2, 3) and float(sigmoid(np.float32(0))) == 0.5


@pytest.mark.parametrize(("name", "points"), [("yolo11n-seg", 0), ("yolo11n-pose", 17), ("yolo26n-pose", 17)])
def test_raw_outputs_are_read_as_their_library_decodes_them(name, points):
    pytest.importorskip("ultralytics")
    from compress.models.library_detectors import ultralytics_detector

    torch.manual_seed(0)
    module = ultralytics_detector(name, classes=CLASSES).eval()
    with torch.no_grad():
        pixels = torch.rand(1, 3, *SIZE)
        raw = [each.numpy() for each in module(pixels)]
        whole = module._whole[0].eval()
        whole.model[-1].training, whole.model[-1].end2end = False, False
        answer = whole.predict(pixels)[0]
    outputs = [each.numpy() for each in (answer if isinstance(answer, list | tuple) else [answer])]
    from deploy.processing.detection.choose import reader

    facts = Head(classes=CLASSES, size=SIZE, points=points)
    ours, theirs = reader("yolo").read(raw, facts), reader("yolo_decoded").read(outputs, facts)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-2)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    for mine, other in ((ours.keypoints, theirs.keypoints), (ours.coefficients, theirs.coefficients)):
        assert (mine is None) == (other is None)
        if mine is not None:
            np.testing.assert_allclose(mine, other, atol=1e-2)


def test_they_are_moved_to_the_picture_with_their_boxes():
    """A picture twice as large as the input, moved by 8 pixels of it: (x - 8) / 0.5; masks to the nearest pixel."""
    window = Window(picture=(96, 112), size=SIZE, scale=(0.5, 0.5), offset=(8.0, 0.0))
    (found,) = decoding().objects(with_masks())
    first, second = described(found, ("a", "b", "c"), window)
    assert np.allclose(first["box"], [0, 16, 40, 64], atol=1e-2) and np.allclose(second["box"], [16, 0, 96, 96], atol=1e-2)
    packed = [coco_masks.frPyObjects(each["mask"], *each["mask"]["size"]) for each in (first, second)]
    masks = [coco_masks.decode(each).astype(bool) for each in packed]
    assert [mask.shape for mask in masks] == [(112, 96)] * 2
    assert masks[0].sum() == 40 * 48, "of its 24 x 24, four columns are left of the picture; twice as large"
    assert masks[1][:96, 48:].all() and not masks[1][:, :48].any() and not masks[1][96:].any()
    (found,) = decoding().objects(with_points())
    moved = [each["keypoints"] for each in described(found, ("a", "b", "c"), window)]
    wanted = [[[(x - 8) / 0.5, y / 0.5, score] for x, y, score in points] for points in POINTS]
    np.testing.assert_allclose(moved, wanted, atol=1e-3)
    assert json.dumps(moved), "plain data"
