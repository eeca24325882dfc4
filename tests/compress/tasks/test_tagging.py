"""Tagging: average precision worked by hand and against scikit-learn, the loss, and what does not fit."""

import numpy as np
import pytest
import torch

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.tasks.tagging import Tagging, average_precision
from profiles.errors import UserError


def splits(targets):
    targets = np.asarray(targets, np.float32)
    each = ArraySamples(np.zeros((len(targets), 1, 4), np.float32), targets)
    return Splits(train=each, calibration=each, validation=each, test=each, classes=("rain", "wind"))


def test_average_precision_by_hand():
    """The tagged are first and third of four: precision 1/1 and 2/3."""
    there = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), there) == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), there) == pytest.approx(50.0), "all tie: half of them have it"


@pytest.mark.slow
def test_it_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, there = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.3
        there[0] = True
        assert average_precision(scores, there) == pytest.approx(100 * metrics.average_precision_score(there, scores))


def test_a_class_that_nothing_has_does_not_count():
    metric = Tagging().evaluate(lambda inputs: [np.array([[2.0, 5.0], [1.0, 4.0]])], splits([[1, 0], [0, 0]]).test)
    assert metric.value == 100.0 and metric.others == {"AP 0": 100.0} and metric.samples == 2


def test_draws_are_of_samples_with_all_their_tags():
    """One of two samples has each tag, and the other is surer of the second tag: AP 1 and 1/2; of one alone 1, or no tag."""
    answers = np.array([[2.0, 4.0], [1.0, 5.0]])
    metric, scores = Tagging().evaluate_samples(lambda inputs: [answers], splits([[1, 1], [0, 0]]).test)
    assert metric.value == pytest.approx(75.0) and scores is None
    assert set(metric.drawn) == {0.0, 75.0, 100.0}
    assert np.mean(np.array(metric.drawn) == 75.0) == pytest.approx(0.5, abs=0.08)


def test_the_loss_is_the_mean_of_the_tags_of_labelled_samples():
    logits, targets = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [-1.0, -1.0]])
    assert float(Tagging().loss(logits, targets)) == pytest.approx(np.log(2))
    assert float(Tagging().loss(logits + 9.0, targets)) == pytest.approx((9 + 2 * np.log1p(np.exp(-9))) / 2)
    assert not Tagging().has_labels(splits([[-1, -1]]).train)


def test_what_does_not_fit_is_told():
    Tagging().check(splits([[1, 0], [0, 1]]))
    with pytest.raises(UserError, match="targets outside 0 to 1"):
        Tagging().check(splits([[2, 0]]))
    with pytest.raises(UserError, match="test split has no tag"):
        Tagging().check(splits([[0, 0]]))
    with pytest.raises(UserError, match=r"gives \(2, 3\) for two samples; tagging of 2 classes reads \(2, 2\)"):
        Tagging().check_outputs(torch.zeros(2, 3), splits([[1, 0]]))
