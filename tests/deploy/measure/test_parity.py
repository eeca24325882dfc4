import numpy as np
import pytest

from deploy.measure.parity import parity


def test_equal_outputs():
    outputs = np.random.default_rng(0).normal(size=(5, 3))
    found = parity(outputs, outputs)
    assert (found.max_abs, found.top1_agreement, found.samples) == (0.0, 1.0, 5)
    assert found.cosine == pytest.approx(1.0)


def test_by_hand():
    found = parity(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found.max_abs == 1.0
    assert found.cosine == pytest.approx(0.5)
    assert found.top1_agreement == 0.5


def test_the_classes_of_a_map_are_its_second_axis():
    one = np.zeros((1, 2, 1, 2))
    one[0, 0, 0, 0] = one[0, 1, 0, 1] = 1.0
    other = one.copy()
    other[0, :, 0, 1] = (2.0, 1.0)
    assert parity(one, other).top1_agreement == 0.5


def test_scale_does_not_change_the_cosine_but_the_distance():
    outputs = np.random.default_rng(0).normal(size=(5, 3))
    found = parity(outputs, 2 * outputs)
    assert found.cosine == pytest.approx(1.0)
    assert found.max_abs > 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        parity(np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize("other", [[[0.0, 0.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]], ids=["zeros", "no number", "infinite"])
def test_what_proves_nothing_has_no_cosine(other):
    """Zeros have no direction; not even what is no number is like itself. Zeros are what zeros are."""
    other = np.array(other)
    assert parity(np.array([[1.0, 2.0]]), other).cosine == 0.0 == parity(other, np.array([[1.0, 2.0]])).cosine
    assert parity(other, other).cosine == (1.0 if (other == 0).all() else 0.0)
