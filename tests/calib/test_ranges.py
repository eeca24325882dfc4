import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.ranges import (
    BINS,
    BLOCK,
    METHODS,
    Histogram,
    entropy,
    merge,
    minmax,
    mse,
    percentile,
    quantize_dequantize,
    symmetric_scales,
)

finite = st.floats(-1e4, 1e4, width=32)


def histogram_of(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.update(np.asarray(part, np.float32))
    return histogram


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=finite),
    hnp.arrays(np.float32, st.integers(1, 200), elements=finite),
)
def test_streaming_loses_no_value_and_no_extreme(first, second):
    histogram = histogram_of(first, second)
    both = np.concatenate([first, second])
    assert histogram.counts.sum() == both.size
    assert (histogram.minimum, histogram.maximum) == (both.min(), both.max())
    assert histogram.low <= both.min()
    assert histogram.high >= both.max()
    assert len(histogram.counts) == BINS


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_each_value_counts_in_its_bin_or_next_to_its_edge(values):
    histogram = histogram_of(values)
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    leeway = 0.02 * (edges[1] - edges[0])
    lowest = np.clip(np.searchsorted(edges, values.astype(np.float64) - leeway, side="right") - 1, 0, BINS - 1)
    highest = np.clip(np.searchsorted(edges, values.astype(np.float64) + leeway, side="right") - 1, 0, BINS - 1)
    cumulative = np.cumsum(histogram.counts)
    for bound, within in ((np.sort(highest), np.greater_equal), (np.sort(lowest), np.less_equal)):
        assert within(cumulative, np.searchsorted(bound, np.arange(BINS), side="right")).all()


def test_blocks_of_any_length_count_every_value_once():
    values = np.random.default_rng(0).normal(size=2 * BLOCK + 77).astype(np.float32)
    histogram = histogram_of(values)
    expected = np.histogram(values, bins=BINS, range=(histogram.low, histogram.high))[0]
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 3
    assert histogram.counts.sum() == values.size


def test_histograms_of_several_tensors_count_as_one():
    first, second = np.linspace(0, 1, 1000), np.linspace(-4, 3, 500)
    alone, both, other = Histogram(), Histogram(), Histogram()
    for each in (first, second):
        alone.update(each)
    both.update(first)
    other.update(second)
    total = merge([both, other])
    assert (total.minimum, total.maximum, total.counts.sum()) == (-4.0, 3.0, 1500)
    assert minmax(total, 256) == minmax(alone, 256)
    np.testing.assert_allclose(percentile(total, 256, keep=0.9), percentile(alone, 256, keep=0.9), atol=0.02)
    assert both.counts.sum() == 1000, "what is merged stays as it was"


def test_memory_does_not_grow_with_the_samples():
    histogram = Histogram()
    for scale in range(1, 50):
        histogram.update(np.linspace(-scale, scale, 1000, dtype=np.float32))
    assert len(histogram.counts) == BINS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        histogram_of([0.0, bad])


@pytest.mark.parametrize("method", METHODS.values())
@given(values=hnp.arrays(np.float32, st.integers(1, 100), elements=finite))
def test_zero_is_in_every_range_and_no_range_is_wider_than_the_values(method, values):
    low, high = method(histogram_of(values), 256)
    assert low <= 0 <= high
    whole = minmax(histogram_of(values), 256)
    tolerance = 1e-5 * (1 + whole[1] - whole[0])
    assert low >= whole[0] - tolerance
    assert high <= whole[1] + tolerance


def test_minmax_is_what_was_seen():
    assert minmax(histogram_of([-1.0, 3.0]), 256) == (-1.0, 3.0)
    assert minmax(histogram_of([2.0, 3.0]), 256) == (0.0, 3.0)


def test_percentile_cuts_a_lone_outlier():
    values = np.concatenate([np.linspace(0, 1, 100_000), [50.0]])
    assert percentile(histogram_of(values), 256)[1] < 1.1


def test_mse_clips_where_clipping_costs_less_than_rounding():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 200_000), [60.0]]).astype(np.float32)
    low, high = mse(histogram_of(values), 16)
    assert high < 20, "the tail of the other side does not hold it"
    wide = np.square(values - quantize_dequantize(values, (float(values.min()), 60.0), 16)).sum()
    assert np.square(values - quantize_dequantize(values, (low, high), 16)).sum() < wide


def test_mse_keeps_the_whole_range_of_a_uniform():
    low, high = mse(histogram_of(np.linspace(-1, 1, 10_000)), 256)
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(1, abs=0.02)


def test_quantize_dequantize_by_hand():
    values = np.array([-1.0, 0.0, 0.4, 0.6, 5.0])
    np.testing.assert_allclose(quantize_dequantize(values, (-1.0, 2.0), 4), [-1, 0, 0, 1, 2])


def test_entropy_keeps_a_uniform_and_clips_a_lone_outlier():
    assert entropy(histogram_of(np.linspace(-1, 1, 20_000)), 64)[1] == pytest.approx(1, abs=0.03)
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 200_000), [40.0]])
    assert 2 < entropy(histogram_of(values), 64)[1] < 20, "the tail of the other side does not hold it"


def test_entropy_is_zero_divergence_where_each_value_has_a_level():
    histogram = histogram_of(np.repeat([0.0, 1.0, 2.0, 3.0], [5, 3, 2, 1]))
    low, high = entropy(histogram, 4)
    assert (low, high) == (0.0, 3.0)


def test_symmetric_scales_by_hand_and_never_worse_than_the_largest_value():
    rows = np.array([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(symmetric_scales(rows, 3), [1.0, 1 / 3])
    rows = np.random.default_rng(0).standard_t(3, (8, 500)).astype(np.float32)

    def error(scale):
        return np.square(rows - np.clip(np.rint(rows / scale[:, None]), -7, 7) * scale[:, None]).sum(1)

    whole = np.abs(rows).max(1) / 7
    assert (error(symmetric_scales(rows, 7)) <= error(whole) + 1e-6).all()
    assert (error(symmetric_scales(rows, 7)) < 0.9 * error(whole)).any()
