import numpy as np
import pytest

from calib.select import METHODS, balanced, random

LABELS = np.repeat(np.arange(4), [40, 30, 20, 10])


@pytest.mark.parametrize("method", METHODS.values())
def test_indices_are_distinct_sorted_and_seeded(method):
    chosen = method(LABELS, 24, 3)
    assert len(set(chosen.tolist())) == 24
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, method(LABELS, 24, 3))
    assert (chosen != method(LABELS, 24, 4)).any()


def test_all_when_fewer_than_asked():
    assert len(random(LABELS, 1000, 0)) == 100
    assert len(balanced(LABELS, 1000, 0)) == 100


def test_balanced_takes_the_same_of_each_class_while_it_lasts():
    assert np.bincount(LABELS[balanced(LABELS, 20, 0)]).tolist() == [5, 5, 5, 5]
    assert np.bincount(LABELS[balanced(LABELS, 55, 0)]).tolist() == [15, 15, 15, 10]
