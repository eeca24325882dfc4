"""Answers compared in pairs: by hand, and the bootstrap beside what it must agree with."""

from dataclasses import replace

import numpy as np
import pytest

from compress.pipeline.check.accuracy import Answers, _joined, compare_answers
from compress.tasks.classification import Classification
from tests.conftest import blobs


def answered(samples, wrong):
    """Answers of a model that is right on all samples but ``wrong``."""
    said = samples.labels.copy()
    said[wrong] = (said[wrong] + 1) % 4
    logits = np.eye(4, dtype=np.float32)[said]
    metric, scores = Classification().evaluate_samples(lambda inputs: [logits], samples)
    return Answers(metric=metric, outputs=[logits], scores=scores)


def test_lost_and_won_are_counted_in_pairs():
    samples = blobs(400)
    old, new = answered(samples, np.arange(10)), answered(samples, np.arange(4, 40))
    found = compare_answers(old, new, Classification(), samples, 0.5, "test")
    assert (found.facts["lost"], found.facts["won"]) == (30, 4)
    assert found.middle == pytest.approx(100 * 26 / 400) and found.answer == "worse" and found.low > 0.5
    assert compare_answers(new, old, Classification(), samples, 0.5, "test").answer == "fine"


def test_the_same_answers_are_fine_however_few():
    samples = blobs(8)
    found = compare_answers(*[answered(samples, [1])] * 2, Classification(), samples, 0.5, "test")
    assert found.answer == "fine" and "no answer differs" in found.compared


def test_too_few_samples_say_how_many_it_would_take():
    samples = blobs(100)
    found = compare_answers(answered(samples, [1]), answered(samples, [2]), Classification(), samples, 1.0, "test")
    assert found.answer == "cannot tell" and found.needed.startswith("about ") and "samples like these 100" in found.needed


def test_the_bootstrap_agrees_with_the_pairs():
    samples = blobs(300)
    old, new = answered(samples, np.arange(12)), answered(samples, np.arange(6, 30))
    paired = compare_answers(old, new, Classification(), samples, 0.5, "test")
    whole = [replace(each, scores=None) for each in (old, new)]
    shares = [replace(each, scores=0.5 * each.scores) for each in (old, new)]
    for two, scale in ((whole, 1.0), (shares, 0.5)):
        drawn = compare_answers(*two, Classification(), samples, 0.5, "test")
        assert drawn.middle == pytest.approx(paired.middle) and "bootstrap of 400" in drawn.compared
        assert drawn.high - drawn.low == pytest.approx(scale * (paired.high - paired.low), rel=0.15)


def test_boxes_of_batches_are_filled_up():
    joined = _joined([np.ones((2, 1, 5), np.float32), np.ones((1, 3, 5), np.float32)])
    assert joined.shape == (3, 3, 5) and (joined[:2, 1:] == -1).all() and (joined[2] == 1).all()
