"""Answers compared in pairs: by hand, and the bootstrap beside what it must agree with."""

from typing import final

import numpy as np
import pytest

from compress.pipeline.check.accuracy import Answers, _joined, compare_answers
from compress.tasks import Task
from compress.tasks.classification import Classification
from tests.conftest import blobs


@final
class SameByAnotherName(Task):
    """Classification, which is judged by the bootstrap since it is not called so."""

    metric, unit = Classification.metric, Classification.unit
    inner = Classification()

    def check(self, splits):
        self.inner.check(splits)

    def check_outputs(self, outputs, splits):
        self.inner.check_outputs(outputs, splits)

    def loss(self, outputs, targets):
        return self.inner.loss(outputs, targets)

    def logits(self, outputs):
        return self.inner.logits(outputs)

    def evaluate(self, predict, samples):
        return self.inner.evaluate(predict, samples)


def answered(samples, wrong):
    """Answers of a model that is right on all samples but ``wrong``."""
    said = samples.labels.copy()
    said[wrong] = (said[wrong] + 1) % 4
    logits = np.eye(4, dtype=np.float32)[said]
    return Answers(metric=Classification().evaluate(lambda inputs: [logits], samples), outputs=[logits])


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
    drawn = compare_answers(old, new, SameByAnotherName(), samples, 0.5, "test")
    assert drawn.middle == pytest.approx(paired.middle)
    assert drawn.high - drawn.low == pytest.approx(paired.high - paired.low, rel=0.15)


def test_boxes_of_batches_are_filled_up():
    joined = _joined([np.ones((2, 1, 5), np.float32), np.ones((1, 3, 5), np.float32)])
    assert joined.shape == (3, 3, 5) and (joined[:2, 1:] == -1).all() and (joined[2] == 1).all()
