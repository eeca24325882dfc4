"""What cannot be calibrated on is refused at once; what looks wrong is said."""

import numpy as np
import pytest

from compress.data.base import ArraySamples
from compress.methods.quantization.calibration_checks import check_calibration
from profiles.errors import UserError

GOOD = np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype(np.float32)
LABELS = np.arange(8) % 4


def samples(images, labels=LABELS):
    return ArraySamples(images, labels[: len(images)])


def test_good_samples_say_nothing_and_free_sizes_take_any():
    assert check_calibration(samples(GOOD), (1, 4, 4)) == ()
    assert check_calibration(samples(GOOD), (1, 0, 0)) == ()


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        (GOOD[:0], "there are no samples"),
        (GOOD[:, :, :3], r"of shape \(1, 3, 4\); the model takes \(1, 4, 4\)"),
        (GOOD[:, 0], r"of shape \(4, 4\)"),
        (GOOD.astype(np.int64), "the samples are int64"),
        (np.where(np.arange(8).reshape(-1, 1, 1, 1) == 3, np.nan, GOOD).astype(np.float32), r"in 1 samples \(3\)"),
    ],
)
def test_what_cannot_be_calibrated_on(images, fault):
    with pytest.raises(UserError, match=fault):
        check_calibration(samples(images), (1, 4, 4))


def test_all_faults_at_once():
    with pytest.raises(UserError) as raised:
        check_calibration(samples(GOOD.astype(np.int64)[:, 0]), (1, 4, 4))
    assert len(raised.value.faults) == 2


@pytest.mark.parametrize(
    ("images", "labels", "doubt"),
    [
        (np.abs(GOOD) * 200, LABELS, "look unnormalised"),
        (GOOD * 0, LABELS, "the same number"),
        (GOOD, LABELS * 0 + 2, "all samples are of class 2"),
    ],
)
def test_what_looks_wrong_is_said(images, labels, doubt):
    (told,) = check_calibration(samples(images, labels), (1, 4, 4))
    assert doubt in told
