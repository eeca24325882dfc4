"""Weights as indices: exact when decoded, near what they were, and on points that err least."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.packing.indices import fitted_points, pack, quantile_points

WEIGHT = np.random.default_rng(0).normal(size=(16, 32, 3, 3)).astype(np.float32)


@given(bits=st.integers(1, 8), number=st.integers(1, 700), bucket=st.sampled_from([7, 64, 256]))
def test_what_is_decoded_is_what_was_chosen(bits, number, bucket):
    weight = np.random.default_rng(number).normal(size=number).astype(np.float32)
    packed = pack(weight, bits, bucket=bucket)
    decoded = packed.unpack()
    span = np.repeat(packed.span, bucket)[:number]
    assert (np.abs(decoded - weight) <= span / (2**bits - 1) / 2 * 1.001 + 1e-6).all()
    np.testing.assert_array_equal(pack(weight, bits, bucket=bucket).unpack(), decoded)
    assert len(packed.indices) == -(-number * bits // 8)


def test_by_hand():
    packed = pack(np.array([0.0, 1.0, 2.0, 3.0], np.float32), 2)
    assert packed.indices == bytes([0b00011011])
    assert packed.unpack().tolist() == [0, 1, 2, 3]
    assert (packed.low.tolist(), packed.span.tolist()) == ([0], [3])


def test_points_where_the_weights_are_err_less_than_even_ones():
    skewed = np.random.default_rng(0).standard_t(2, 4096).astype(np.float32)
    even = np.abs(pack(skewed, 3).unpack() - skewed).mean()
    placed = np.abs(pack(skewed, 3, quantile_points(skewed, 3)).unpack() - skewed).mean()
    assert placed < even


def test_fitted_points_are_lloyd_s_and_err_least():
    skewed = np.random.default_rng(0).standard_t(2, 4096).astype(np.float32)
    errors = [np.square(pack(skewed, 3, f(skewed, 3)).unpack() - skewed).mean() for f in (fitted_points, quantile_points)]
    assert errors[0] < 0.5 * errors[1]
    by_hand = np.array([0, 1, 9, 10], np.float32)
    assert pack(by_hand, 1, fitted_points(by_hand, 1)).unpack().tolist() == pytest.approx([0.5, 0.5, 9.5, 9.5])


def test_equal_weights_and_what_cannot_be():
    assert (pack(np.full((4, 4), 0.3, np.float32), 4).unpack() == np.float32(0.3)).all()
    for wrong in ({"bits": 9}, {"bits": 1, "points": [0, 0.5, 1]}):
        with pytest.raises(ValueError, match="bits"):
            pack(WEIGHT, **wrong)
    with pytest.raises(ValueError, match="NaN"):
        pack(np.array([np.nan], np.float32), 4)
