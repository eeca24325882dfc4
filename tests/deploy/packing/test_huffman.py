"""Huffman codes: what is coded comes back, no shorter code exists, and what is no code is refused."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.packing.huffman import BLOCK, LONGEST, Coded, code_lengths, decode, encode


def test_lengths_by_hand_and_never_longer_than_they_must_be():
    assert code_lengths(np.array([5, 2, 1, 1])).tolist() == [1, 2, 3, 3]
    assert code_lengths(np.array([0, 7])).tolist() == [0, 1]
    frequencies = np.bincount(np.random.default_rng(0).geometric(0.5, 1000))
    lengths = code_lengths(frequencies)
    assert sum(2.0**-length for length in lengths if length) == 1.0  # Kraft
    p = frequencies[frequencies > 0] / 1000
    mean = np.dot(frequencies, lengths) / 1000
    assert -(p * np.log2(p)).sum() <= mean < -(p * np.log2(p)).sum() + 1


def test_a_code_by_hand():
    coded = encode(np.array([0, 1, 0, 2, 0, 3, 0, 1], np.uint8), 4)  # 0: 0, 1: 10, 2: 110, 3: 111
    assert coded.lengths.tolist() == [1, 2, 3, 3]
    assert coded.bits == bytes([0b01001100, 0b11101000]) and coded.blocks.tolist() == [14]
    assert coded.size_bytes == 4 + 2 + 2


@given(
    number=st.sampled_from([1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]),
    alphabet=st.integers(1, 256),
    skew=st.floats(0, 4),
)
def test_what_is_coded_comes_back(number, alphabet, skew):
    share = np.arange(1, alphabet + 1) ** -skew
    symbols = np.random.default_rng(number).choice(alphabet, number, p=share / share.sum()).astype(np.uint8)
    coded = encode(symbols, alphabet)
    np.testing.assert_array_equal(decode(coded, number), symbols)
    assert len(coded.bits) == -(-int(coded.blocks.astype(int).sum()) // 8)


def test_the_longest_code_is_limited_and_still_whole():
    frequencies = np.array([1, 1], np.int64)
    while len(frequencies) < 40:  # Fibonacci's numbers make the longest codes there are
        frequencies = np.append(frequencies, frequencies[-2:].sum())
    lengths = code_lengths(frequencies)
    assert lengths.max() == LONGEST and (2.0**-lengths).sum() == 1


def test_millions_of_weights_are_decoded_in_about_a_second():
    symbols = np.random.default_rng(0).binomial(3, 0.5, 2**21).astype(np.uint8)
    coded = encode(symbols, 4)
    started = time.perf_counter()
    found = decode(coded, len(symbols))
    assert time.perf_counter() - started < 4.0
    np.testing.assert_array_equal(found, symbols)


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": np.array([1, 1, 1, 1], np.uint8)},
        {"lengths": np.array([1, 2, 3, 99], np.uint8)},
        {"blocks": np.array([13], np.uint16)},
        {"blocks": np.array([14, 1], np.uint16)},
        {"bits": bytes(1)},
        {"lengths": np.array([0, 0, 0, 0], np.uint8)},
    ],
)
def test_what_is_no_code_is_refused(change):
    good = encode(np.array([0, 1, 0, 2, 0, 3, 0, 1], np.uint8), 4)
    with pytest.raises(ValueError, match="Huffman code"):
        decode(Coded(**{**vars(good), **change}), 8)
