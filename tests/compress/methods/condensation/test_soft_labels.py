"""Soft labels come back as they were stored: in full, a byte a class, or two numbers a sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.methods.condensation.soft_labels import SPAN, bytes_a_sample, decode, distances, encode, resolve_form
from profiles.errors import UserError

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 2.5]])
LABELS = np.array([0, 2])


def shares(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_two_distances_by_hand():
    """Shares 0.5, 0.3 and 0.2 with the label 1: -ln 0.3, and sqrt(0.7^2 + 0.5^2 + 0.2^2)."""
    found = distances(np.log([[0.5, 0.3, 0.2]]) + 7.0, np.array([1]))
    assert found[0].tolist() == pytest.approx([-np.log(0.3), np.sqrt(0.49 + 0.25 + 0.04)])


@pytest.mark.parametrize(("form", "apart"), [("full", 1e-3), ("quantised", 4 / 255)])
def test_shares_come_back(form, apart):
    stored = encode(form, LOGITS + 100, LABELS)
    assert np.abs(shares(decode(stored, LABELS, 3)) - shares(LOGITS)).max() < apart
    assert sum(array.nbytes for array in stored.values()) == 2 * bytes_a_sample(form, 3)


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_of_two_numbers_come_logits_with_these_distances(seed, classes):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 2.5, (7, classes)), rng.integers(0, classes, 7)
    stored = encode("two", logits, labels)
    assert stored["soft_distances"].nbytes == 7 * bytes_a_sample("two", classes) == 28
    again = distances(decode(stored, labels, classes).astype(np.float64), labels)
    assert np.allclose(again, stored["soft_distances"], rtol=2e-2, atol=2e-3)
    assert np.allclose(again, distances(logits, labels), rtol=2e-2, atol=4e-3)


def test_what_is_far_below_the_largest_is_cut_off():
    found = decode(encode("quantised", np.array([[0.0, -1.0, -500.0]]), LABELS[:1]), LABELS[:1], 3)
    assert found[0, 2] == pytest.approx(-SPAN)
    assert found[0, 1] == pytest.approx(-1.0, abs=SPAN / 255)


def test_auto_is_a_byte_a_class_and_two_numbers_where_there_are_many():
    known, unknown = np.array([0, 1]), np.array([0, -1])
    assert resolve_form("auto", (2, 10), known) == "quantised"
    assert resolve_form("auto", (2, 256), known) == "two"
    assert resolve_form("auto", (2, 256), unknown) == "quantised"
    assert resolve_form("auto", (2, 8, 8, 3), known) == "none"
    assert resolve_form("full", (2, 256), known) == "full"
    assert resolve_form("auto", (2, 10), np.zeros((2, 10), np.float32)) == "none"


def test_two_numbers_need_a_label():
    with pytest.raises(UserError, match="take 'quantised'"):
        encode("two", LOGITS, np.array([0, -1]))


def test_scores_that_are_no_distribution_are_not_stored():
    with pytest.raises(UserError, match="stores a distribution over classes a sample; given: scores"):
        encode("quantised", LOGITS, np.array([0.5, 0.1]))
