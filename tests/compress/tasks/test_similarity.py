import numpy as np
import pytest
from scipy.stats import spearmanr

from compress.data.base import NamedSamples, Splits
from compress.tasks.similarity import Similarity, cosines, spearman
from profiles.errors import UserError


def samples(pairs, scores):
    targets = np.stack([np.asarray(pairs, float), np.asarray(scores, float)], axis=1)
    return NamedSamples({"input_ids": np.arange(len(pairs))[:, None]}, targets)


def test_ranks_with_ties_are_those_of_scipy():
    random = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = random.integers(0, 5, 30), random.normal(size=30)
        assert spearman(ours, theirs) == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-9)
    assert spearman(np.ones(4), np.arange(4)) == 0.0


def test_pairs_are_found_by_number_whatever_their_order():
    """Of vectors at 0, 30 and 90 degrees: cosines 1, 0.866 and 0, scores 3, 1, 2: ranks (3, 2, 1) and (3, 1, 2), so 0.5."""
    angles = np.deg2rad([0, 0, 0, 30, 0, 90, 45])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([1, 5, 2, 3, 1, 9, 1])[:, None]
    numbers, scores = np.array([7, 7, 2, 2, 5, 5, 11]), np.array([3, 3, 1, 1, 2, 2, 0])
    assert cosines(vectors[[0, 2, 4]], vectors[[1, 3, 5]]) == pytest.approx([1, np.sqrt(3) / 2, 0], abs=1e-9)
    order = np.array([3, 0, 5, 6, 1, 2, 4])
    found = Similarity().evaluate(
        lambda inputs: [vectors[order][inputs["input_ids"][:, 0]]], samples(numbers[order], scores[order])
    )
    assert (found.value, found.samples) == (pytest.approx(50.0), 3), "a sentence without its other is in no pair"
    assert {0.0, 50.0, 100.0} <= {round(value) for value in found.drawn}, "of pairs, and one alone has no correlation"


def test_a_negative_correlation_is_zero_and_told():
    task = Similarity()
    numbers, scores = [0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0]
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 1], [1, 0], [1, 0.0]])
    found = task.evaluate(lambda inputs: [vectors[inputs["input_ids"][:, 0]]], samples(numbers, scores))
    assert (found.value, found.others) == (0.0, {"spearman itself": pytest.approx(-100.0)})
    task.check_metric(found)


def test_data_that_is_not_of_pairs_is_told():
    whole, broken = samples([0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 3, 3]), samples([0, 0, 1, 2], [1, 1, 2, 3])
    Similarity().check(Splits(train=whole, calibration=whole, validation=whole, test=whole, classes=()))
    flat = NamedSamples({"input_ids": np.zeros((4, 2), np.int64)}, np.zeros(4))
    with pytest.raises(UserError) as told:
        Similarity().check(Splits(train=flat, calibration=whole, validation=broken, test=whole, classes=()))
    assert str(told.value).splitlines() == [
        "data: the train split has targets of shape (4,); similarity: a pair's number and its score, (samples, 2)",
        "data: the validation split has less than 3 whole pairs; models are judged on them",
    ]
