"""Thresholds after int8, worked by hand: the float model's precision is kept, and as much of its recall as there is."""

import numpy as np
import pytest

from compress.tasks.thresholds import Judged, _judged, _threshold, choose_thresholds, describe

BOX, ELSEWHERE = [0, 0, 10, 10], [50, 50, 60, 60]


def judged(scores, right, objects):
    return Judged(scores=np.array(scores, float), right=np.array(right, bool), objects=objects)


FLOAT = judged([0.9, 0.8, 0.6, 0.5, 0.3, 0.2], [1, 1, 0, 1, 0, 1], 5)
"""At 0.4: three of four right, precision 3/4, recall 3/5."""


def test_the_same_model_keeps_its_threshold():
    assert FLOAT.at(0.4) == (0.75, 0.6, 4)
    assert _threshold(FLOAT, FLOAT, 0.4) == 0.4


def test_a_threshold_that_is_still_good_stays_though_another_is_better():
    """The wrong one at .6 is gone: precision 1 at .4, and all that was found is."""
    better = judged([0.9, 0.8, 0.5], [1, 1, 1], 5)
    assert _threshold(FLOAT, better, 0.4) == 0.4


def test_scores_that_int8_halved_get_half_the_threshold():
    """Shown from between .25 and .15 on: four detections again, three right."""
    halved = judged(FLOAT.scores / 2, FLOAT.right, 5)
    assert _threshold(FLOAT, halved, 0.4) == pytest.approx((0.25 + 0.15) / 2)
    assert halved.at(0.2) == FLOAT.at(0.4)


def test_new_wrong_ones_raise_it_though_less_is_found():
    """Two wrong ones at .7: from .8 on, precision 1, recall 2/5; lower down 3/6 at best."""
    worse = judged([0.9, 0.8, 0.7, 0.7, 0.6, 0.5], [1, 1, 0, 0, 0, 1], 5)
    assert _threshold(FLOAT, worse, 0.4) == pytest.approx((0.8 + 0.7) / 2)


def test_equal_scores_are_shown_together():
    """A right and a wrong one at .6: the right one alone cannot be had."""
    tied = judged([0.6, 0.6], [1, 0], 1)
    assert _threshold(judged([0.9], [1], 1), tied, 0.5) == 0.5, "nothing is as precise: the most precise there is"
    assert tied.at(0.6) == (0.5, 1.0, 2)


def test_where_nothing_is_as_precise_the_most_precise_is_taken():
    poor = judged([0.9, 0.8, 0.7], [0, 1, 0], 5)
    assert _threshold(FLOAT, poor, 0.4) == pytest.approx((0.8 + 0.7) / 2)


def test_a_model_that_finds_nothing_keeps_the_threshold():
    nothing = judged([], [], 5)
    assert _threshold(FLOAT, nothing, 0.4) == 0.4
    assert nothing.at(0.4) == (1.0, 0.0, 0)


def test_detections_are_right_once_for_each_object_and_surest_first():
    """Two on one object: the surer is right. One of another class, one that overlaps by 1/3: wrong."""
    truth = [np.array([[0, *BOX], [-1, 0, 0, 0, 0]], float), np.array([[0, *ELSEWHERE], [1, *BOX]], float)]
    found = [
        np.array([[0, 0.9, *BOX], [0, 0.7, *BOX], [1, 0.6, *BOX]], np.float32),
        np.array([[0, 0.8, 50, 55, 60, 65]], np.float32),
    ]
    one, other = _judged(truth, found, 2)
    assert (one.scores.round(1).tolist(), one.right.tolist(), one.objects) == ([0.9, 0.8, 0.7], [True, False, False], 2)
    assert (other.right.tolist(), other.objects) == ([False], 1)


def samples(factor, count=30):
    """A class with 30 objects, each found at .8 (times ``factor``), every third with a wrong one at .4; another with 3."""
    truth = [np.array([[0, *BOX], *([[1, *ELSEWHERE]] if i < 3 else [])], float) for i in range(count)]
    rows = [
        [
            [0, 0.8 * factor, *BOX],
            *([[0, 0.4 * factor, *ELSEWHERE]] if i % 3 == 0 else []),
            *([[1, 0.8 * factor, *ELSEWHERE]] if i < 3 else []),
        ]
        for i in range(count)
    ]
    return truth, [np.array(each, np.float32) for each in rows]


def test_each_class_has_its_own_and_a_rare_one_that_of_all():
    truth, before = samples(1.0)
    _, after = samples(0.5)
    common, rare = choose_thresholds(truth, before, after, ("cell", "rare"), 0.5)
    assert common.threshold == pytest.approx(0.3) and not common.pooled
    assert (common.float_recall, common.old_recall, common.recall, common.precision) == (1.0, 0.0, 1.0, 1.0)
    assert rare.pooled and rare.threshold == pytest.approx(0.3)
    words = describe((common, rare), len(truth))
    assert words.startswith("score thresholds after int8, chosen on 30 samples of validation")
    assert "cell 0.5 -> 0.3 (precision 100.0%, float 100.0%; recall 0.0% -> 100.0%, float 100.0%)" in words
    assert words.endswith("float 100.0%, over all classes)")


def test_precision_is_never_below_the_float_models_where_it_can_be_had():
    """A property, on detections drawn at random."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 40))
        one, other = (
            judged(-np.sort(-rng.random(count).round(2)), rng.random(count) < rng.random(), count) for _ in range(2)
        )
        asked = float(rng.random())
        chosen = _threshold(one, other, asked)
        reachable = max(other.at(score)[0] for score in other.scores)
        assert other.at(chosen)[0] >= min(one.at(asked)[0], reachable) - 1e-9
