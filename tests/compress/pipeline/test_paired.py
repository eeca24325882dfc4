import numpy as np
import pytest

from compress.pipeline.paired import drop_interval, samples_needed


def scores(both, lost, won, neither):
    """Of a teacher and a student: samples that both have right, the teacher alone, the student alone, neither."""
    teacher = [1.0] * both + [1.0] * lost + [0.0] * won + [0.0] * neither
    student = [1.0] * both + [0.0] * lost + [1.0] * won + [0.0] * neither
    return np.array(teacher, np.float32), np.array(student, np.float32)


def test_only_what_one_of_both_has_right_tells():
    low, high = drop_interval(*scores(70, 12, 4, 14))
    assert low == pytest.approx(0.0, abs=0.01) and high == pytest.approx(0.16, abs=0.02), "0.08 -+ 1.96 * 0.04"
    assert drop_interval(*scores(0, 12, 4, 84)) == (low, high), "what both have right or wrong tells nothing"
    swapped = drop_interval(*reversed(scores(70, 12, 4, 14)))
    assert swapped == (pytest.approx(-high), pytest.approx(-low))


def test_equal_answers_of_few_samples_leave_room():
    """Nothing lost of 62: 1.96 ** 2 / (62 + 1.96 ** 2) on either side."""
    assert drop_interval(*scores(50, 0, 0, 12)) == (pytest.approx(-0.05835, abs=1e-4), pytest.approx(0.05835, abs=1e-4))


def test_scores_that_are_no_right_or_wrong_are_resampled():
    """Normal differences of mean 0.1 and deviation 0.2: 0.1 -+ 1.96 * 0.2 / sqrt(400)."""
    random = np.random.default_rng(1)
    teacher, off = random.uniform(0, 1, 400), random.normal(0, 1, 400)
    off = 0.1 + 0.2 * (off - off.mean()) / off.std()
    low, high = drop_interval(teacher, teacher - off)
    assert (low, high) == (pytest.approx(0.1 - 0.0196, abs=2e-3), pytest.approx(0.1 + 0.0196, abs=2e-3))


def test_every_sample_may_be_drawn():
    """One of ten differs, by a half: the first, or the last."""
    for place in (0, 9):
        teacher = np.zeros(10)
        teacher[place] = 0.5
        low, high = drop_interval(teacher, np.zeros(10))
        assert low == 0 and 0.1 <= high <= 0.2, "0, 1, 2, 3 times of ten, on average once"


def test_how_many_samples_tell():
    """Two points to either side at 100 samples: a point takes four times as many."""
    assert samples_needed((-1.0, 3.0), 100, 1.0) == 400
    assert samples_needed((-1.0, 3.0), 100, 4.0) == 25
