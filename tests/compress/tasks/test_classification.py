"""Accuracy and calibration of a classifier, by hand."""

import numpy as np
import pytest

from compress.data.base import ArraySamples
from compress.tasks.classification import Classification, expected_calibration_error, top_k


def test_top_k_by_hand():
    logits = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    labels = np.array([0, 2, 0])
    assert top_k(logits, labels, 1) == pytest.approx(100 / 3)
    assert top_k(logits, labels, 3) == pytest.approx(200 / 3)
    assert top_k(logits, labels, 4) == 100


def test_a_tie_is_no_hit_of_all_of_its_classes():
    logits, labels = np.zeros((4, 6)), np.array([0, 1, 4, 5])
    assert top_k(logits, labels, 1) == 25
    assert top_k(logits, labels, 5) == 0


def test_calibration_error_by_hand():
    sure = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]))
    assert expected_calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(15), "0.9 sure, 0.75 right"
    mixed = np.log(np.array([[0.9, 0.1], [0.4, 0.6]]))
    assert expected_calibration_error(mixed, np.array([0, 0])) == pytest.approx((10 + 60) / 2), "two bins of one sample"


def test_a_bin_s_confidence_and_accuracy_are_means_over_it():
    logits = np.log(np.array([[0.61, 0.39], [0.65, 0.35]]))
    assert expected_calibration_error(logits, np.array([0, 1])) == pytest.approx(100 * abs(0.5 - 0.63))


def test_confidence_is_invariant_to_a_constant_and_finite_at_extremes():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    assert expected_calibration_error(logits + 100, labels) == pytest.approx(expected_calibration_error(logits, labels))
    assert np.isfinite(expected_calibration_error(logits * 1e4, labels))


def test_the_metric_has_top_5_where_there_are_more_classes_than_that():
    data = ArraySamples(np.eye(8, dtype=np.float32)[:, None, None], np.arange(8))
    found = Classification().evaluate(lambda inputs: [inputs[:, 0, 0] * 30], data)
    assert (found.value, found.others["top5"], found.samples) == (100, 100, 8)
    assert found.others["ece"] == pytest.approx(0, abs=1e-6)
    few = ArraySamples(np.eye(4, dtype=np.float32)[:, None, None], np.arange(4))
    assert set(Classification().evaluate(lambda inputs: [inputs[:, 0, 0]], few).others) == {"ece"}
