import numpy as np
import pytest

from calib.select import METHODS, balanced, coverage, entropy, herding, k_centre, random

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


def clouds():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    return np.concatenate([centre + rng.normal(0, 0.1, (25, 2)) for centre in centres])


@pytest.mark.parametrize("method", [herding, k_centre, coverage, entropy])
def test_by_features_indices_are_distinct_sorted_and_repeatable(method):
    features = np.abs(clouds()) / 20 + 0.01
    chosen = method(features, 12, 3)
    assert len(set(chosen.tolist())) == 12
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, method(features, 12, 3))
    assert len(method(features, 1000, 0)) == 100


def test_herding_follows_the_mean_better_than_random():
    features = clouds()
    off = np.linalg.norm(features[herding(features, 8)].mean(0) - features.mean(0))
    by_chance = [np.linalg.norm(features[random(np.zeros(100, int), 8, s)].mean(0) - features.mean(0)) for s in range(10)]
    assert off < min(by_chance)


def test_k_centre_takes_one_of_each_cloud():
    assert sorted(k_centre(clouds(), 4, 0) // 25) == [0, 1, 2, 3]


def test_coverage_by_hand():
    line = np.array([[0.0], [0.1], [0.9], [1.0], [0.5]])
    assert coverage(line, 3, bins=3).tolist() == [0, 2, 4]


def test_entropy_takes_sure_and_unsure_ones():
    sure = np.linspace(0.5, 0.99, 100)
    chosen = entropy(np.stack([sure, 1 - sure], axis=1), 10, 0)
    assert sorted(chosen // 10) == list(range(10))
