"""Log-mel spectra: a known sine, silence, and frames counted by hand."""

import math

import numpy as np
import pytest

from deploy.processing.log_mel import CENTRE, FLOOR, FULL_SCALE, SPREAD, LogMel, to_hz, to_mel
from profiles.errors import UserError


def test_a_sine_at_full_scale_in_the_middle_of_a_bin():
    """Power FULL_SCALE in its bin and a quarter of it in both beside, as a Hann window spreads it."""
    settings = LogMel(rate=8000, window_ms=32, hop_ms=16, mels=8)
    waves, triangles = settings.kernels()
    bins = np.round(np.arange(129) * 8000 / 256, 6)
    sine = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)  # 1000 Hz is bin 32 of 256 samples
    parts = waves @ sine[:256]
    power = parts[:129] ** 2 + parts[129:] ** 2
    np.testing.assert_allclose(power[31:34], [FULL_SCALE / 4, FULL_SCALE, FULL_SCALE / 4], rtol=1e-4)
    assert power[:30].max() < 1e-3 and bins[32] == 1000
    expected = (triangles[:, :129] @ power + FLOOR).clip(min=0)
    found = settings(sine[None].astype(np.float32))
    assert found.shape == (1, 8, 61) == (1, settings.mels, settings.frames(8000))
    np.testing.assert_allclose(found[0, :, 0], (np.log(expected) - CENTRE) / SPREAD, rtol=1e-4)


def test_silence_is_the_floor_80_db_below_full_scale():
    found = LogMel(rate=8000)(np.zeros((2, 8000), np.float32))
    np.testing.assert_allclose(found, (math.log(FLOOR) - CENTRE) / SPREAD, rtol=1e-6)
    assert 10 * math.log10(FULL_SCALE / FLOOR) == pytest.approx(80)


def test_mels_and_triangles():
    assert to_mel(1000) == pytest.approx(999.99, abs=0.01), "HTK's scale has 1000 mels at 1000 Hz"
    assert to_hz(to_mel(440.0)) == pytest.approx(440.0)
    _, triangles = LogMel(rate=16000, mels=40).kernels()
    assert triangles.shape == (40, 2 * 257) and (triangles >= 0).all() and triangles.max() <= 1
    assert (triangles.sum(axis=1) > 0).all(), "also those that lie between two bins have one"


def test_settings_that_cannot_be_are_told_at_once():
    with pytest.raises(UserError) as caught:
        LogMel(rate=8000, mels=0, high_hz=5000, hop_ms=0)
    assert len(caught.value.faults) == 3
