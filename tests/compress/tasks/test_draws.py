"""Metrics on samples drawn anew: COCO's own precision of the images drawn, and spreads that are known by hand."""

import numpy as np
import pytest

from compress.pipeline.evaluation import Evaluation
from compress.pipeline.paired import drop_in_points
from compress.tasks import draws, precision
from compress.tasks.drawn_precision import Matched, matched
from compress.tasks.draws import rows_drawn, values_of_draws
from compress.tasks.precision import coco_kinds, coco_precision, evaluators


def drawn_boxes(images=12, seed=3):
    """Objects of two classes in most images, found shifted, with false ones between, every score another."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        corners = random.uniform(0, 30, (random.integers(0, 4), 2))
        boxes = np.hstack([corners, corners + random.uniform(8, 20, corners.shape)])
        labels = random.integers(0, 2, len(boxes)).astype(float)
        truth.append(np.column_stack([labels, boxes]))
        shifted = boxes + random.normal(0, 2, boxes.shape)
        false = np.hstack([random.uniform(0, 20, (2, 2)), random.uniform(25, 50, (2, 2))])
        scored = np.vstack([shifted, false])
        found.append(np.column_stack([[*labels, 0, 1], random.uniform(0, 1, len(scored)), scored]))
    return truth, found


def evaluated(truth, found):
    return coco_precision(*precision._entries(truth, found), "bbox")


def matches(truth, found, thresholds=()):
    images, references, results = precision._entries(truth, found)
    labels, scored = precision._scored(references, results)
    judge = precision._judge(coco_kinds("pycocotools"), images, references, scored, labels, "bbox", (), thresholds)
    return matched(judge, len(images))


def test_on_every_image_once_it_is_cocos_own():
    truth, found = drawn_boxes()
    expected = np.concatenate(list(evaluated(truth, found).values()))
    ours = [part.precision(np.ones(len(truth), int)) for part in matches(truth, found)]
    np.testing.assert_allclose(ours, expected, atol=1e-9)
    assert len(set(expected)) > 5 and evaluators()


def test_of_images_drawn_it_is_cocos_of_those_images():
    truth, found = drawn_boxes()
    weights = np.random.default_rng(0).multinomial(len(truth), [1 / len(truth)] * len(truth))
    rows = rows_drawn(weights)
    assert weights.max() > 1 and weights.min() == 0
    expected = evaluated([truth[i] for i in rows], [found[i] for i in rows])
    ours = [part.precision(weights) for part in matches(truth, found, (0.5,))]
    np.testing.assert_allclose(ours, [expected[label][0] for label in sorted(expected)], atol=1e-9)


def test_precision_by_hand():
    """Two objects in image 0, one in image 1; found: 0 right, 1 false, 0 right. Of image 1 twice and 0 never nothing is."""
    part = Matched(
        images=np.array([0, 1, 0]),
        right=np.array([True, False, True]),
        wrong=np.array([False, True, False]),
        objects=np.array([2, 1]),
    )
    # recalls 0 to .33 at precision 1, to .66 at 2/3, then 0: 34, 33 and 34 of 101
    assert part.precision(np.array([1, 1])) == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert part.precision(np.array([2, 0])) == 1.0
    assert part.precision(np.array([0, 2])) == 0.0
    assert Matched(**{**vars(part), "objects": np.array([2, 0])}).precision(np.array([0, 2])) is None


def test_draws_are_the_same_for_every_model_and_fewer_where_they_cost_more():
    right = np.repeat([100.0, 0.0], [300, 100])
    one, other = (values_of_draws(lambda w, g=given: float(w @ g) / 400, 400, 400) for given in (right, right - 1))
    assert len(one) == draws.MOST_DRAWS and np.ptp(np.subtract(one, other)) < 1e-9
    assert np.std(one) == pytest.approx(100 * np.sqrt(0.75 * 0.25 / 400), rel=0.15)
    assert values_of_draws(lambda w: 0.0, 4, 2 * draws.WORK) == (0.0,) * draws.LEAST_DRAWS
    assert len(values_of_draws(lambda w: 0.0, 4, draws.WORK // 200)) == 200


def judged(drawn):
    return Evaluation(metric=None, parity=None, drawn=None if drawn is None else np.array(drawn, float))


def test_the_drop_is_of_pairs_of_draws_in_points():
    """Differences 0, 1, ... 100 of a metric up to 50: twice as many points; 2.5 and 97.5 in 100 of them."""
    student = np.linspace(20, 40, 101)
    teacher = student + np.arange(101)
    assert drop_in_points(judged(teacher), judged(student), 50.0) == pytest.approx((5.0, 195.0))
    assert drop_in_points(judged([*teacher, 900.0]), judged(student), 50.0) == pytest.approx((5.0, 195.0))
    assert drop_in_points(judged(teacher), judged(None), 50.0) is None
