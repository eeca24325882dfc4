import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compress.data.transforms import (
    IMAGENET,
    Normalise,
    centre_box,
    make_normalise,
    random_box,
    random_draws,
    random_mirror,
    random_shift,
    resize_crop,
    statistics,
)
from profiles.errors import UserError

RGB = dict(zip(("mean", "deviation"), IMAGENET, strict=True))


@given(st.integers(0, 255), st.sampled_from([1.0, 255.0]), st.sampled_from(["rgb", "bgr"]))
def test_normalising_is_its_formula(byte, scale, order):
    normalise = Normalise(mean=(0.1, 0.2, 0.3), deviation=(0.5, 1.0, 2.0), order=order, scale=scale)
    pixel = np.array([byte, 255 - byte, 7], np.uint8)
    values = pixel[::-1] if order == "bgr" else pixel
    expected = [(v * scale / 255 - m) / d for v, m, d in zip(values, normalise.mean, normalise.deviation, strict=True)]
    found = normalise(pixel.reshape(1, 3, 1, 1))
    assert found.shape == (1, 3, 1, 1)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_caffe_takes_bytes_as_they_are():
    caffe = Normalise(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0), order="bgr", scale=255)
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    np.testing.assert_array_equal(caffe(every), every.astype(np.float32))


def test_the_usual_mean_is_brought_to_the_order_and_scale_that_are_asked_for():
    """A white pixel is 2.64, 2.4286 and 2.2489 deviations above ImageNet's mean, in whatever units."""
    white = np.full((3, 1, 1), 255, np.uint8)
    for order, scale in itertools.product(("rgb", "bgr"), (1.0, 255.0)):
        found = make_normalise((), (), order, scale, usual=IMAGENET)(white).ravel()
        np.testing.assert_allclose(found[:: 1 if order == "rgb" else -1], [2.2489, 2.4286, 2.64], atol=1e-4)
    given = make_normalise((0.5,), (0.25,), "rgb", 1.0, usual=IMAGENET)
    assert (given.mean, given.deviation, given.as_json()["order"]) == ((0.5,), (0.25,), "grey")


def test_what_comes_out_is_row_by_row_whatever_went_in():
    held = np.zeros((2, 5, 4, 3), np.uint8).transpose(0, 3, 1, 2)
    assert Normalise(**RGB)(held).flags.c_contiguous
    assert Normalise(**{**RGB, "order": "bgr"})(held).flags.c_contiguous


def test_faults_of_normalising_come_together():
    with pytest.raises(UserError) as caught:
        Normalise(mean=(0.5, float("nan")), deviation=(0.0, 0.1), order="gbr", scale=0)
    words = ["2 and 2 values", "finite", "above 0", "order is one of rgb, bgr", "scale is what white is"]
    assert len(caught.value.faults) == len(words)
    assert all(word in fault for word, fault in zip(words, caught.value.faults, strict=True))


def test_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 9), dtype=np.uint8)
    images[:, 2] = 51
    mean, deviation = statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(deviation[:2], (images / 255).std(axis=(0, 2, 3))[:2], atol=1e-4)
    assert (mean[2], deviation[2]) == (0.2, 0.0039)


def test_every_shift_is_a_window_of_the_padded_image():
    images = np.random.default_rng(0).integers(1, 256, (64, 2, 5, 7), dtype=np.uint8)
    moved = random_shift(images, 2, np.random.default_rng(3), fill=0)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = set()
    for image, whole in zip(moved, padded, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if (whole[:, y : y + 5, x : x + 7] == image).all()]
        places |= set(fits)
        assert fits
    assert len(places) > 20


def test_mirroring_turns_half_and_twice_is_nothing():
    images = np.arange(400 * 6, dtype=np.int64).reshape(400, 1, 2, 3)
    turned = images.copy()
    random_mirror(turned, np.random.default_rng(0))
    kept = (turned == images).all(axis=(1, 2, 3))
    assert 150 < kept.sum() < 250
    np.testing.assert_array_equal(turned[~kept], images[~kept][..., ::-1])
    random_mirror(turned, np.random.default_rng(0))
    np.testing.assert_array_equal(turned, images)


@given(st.integers(1, 900), st.integers(1, 900), st.floats(0.01, 1), st.integers(0, 9))
def test_a_random_box_is_inside_and_of_a_size_that_was_asked_for(width, height, least_area, seed):
    left, top, right, bottom = random_box(width, height, least_area, random_draws(1, np.random.default_rng(seed))[0])
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if min(width, height) > 50 and max(width, height) < 1.3 * min(width, height):
        ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top)
        assert 0.70 < ratio < 1.43
        assert area > 0.95 * least_area * width * height - 900


def test_a_random_box_reaches_every_corner():
    draws = random_draws(400, np.random.default_rng(0))
    boxes = np.array([random_box(100, 100, 0.5, row) for row in draws])
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2:].max() == 100
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
    assert areas.min() < 0.55
    assert areas.max() > 0.9


def test_a_panorama_is_cropped_in_the_middle():
    """No attempt at the whole area fits 400x100 with a ratio up to 4:3; what is left is 133x100 in the middle."""
    draws = random_draws(1, np.random.default_rng(0))[0]
    assert random_box(400, 100, 1.0, draws) == (133, 0, 266, 100)
    assert random_box(100, 400, 1.0, draws) == (0, 133, 100, 266)


@pytest.mark.parametrize("shape", [(97, 61), (61, 97), (50, 50), (300, 41)])
def test_resizing_a_centre_box_is_resizing_and_then_cropping(shape):
    """The known answer: what torchvision's Resize(40) and CenterCrop(32) do, with Pillow in two passes."""
    width, height = shape
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    short = min(shape)
    wide, high = int(40 * width / short), int(40 * height / short)
    whole = picture.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - 32) / 2), round((high - 32) / 2)
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), np.int64)
    found = np.asarray(resize_crop(picture, 32, centre_box(width, height, 32, 40)), np.int64)
    assert np.abs(found - expected).max() <= 1
