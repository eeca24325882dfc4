from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.base import ArraySamples, Splits, array_splits, assign_splits, split_indices
from compress.data.digits import digits
from compress.data.transforms import Normalise
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import blobs


def test_splits_are_disjoint_whole_and_seeded():
    parts = split_indices(100, (0.5, 0.1, 0.2), 3)
    assert [len(p) for p in parts] == [50, 10, 20, 20]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert all((a == b).all() for a, b in zip(parts, split_indices(100, (0.5, 0.1, 0.2), 3), strict=True))
    assert (parts[0] != split_indices(100, (0.5, 0.1, 0.2), 4)[0]).any()


def test_digits_are_what_scikit_learn_ships():
    data = digits()
    parts = [data.train, data.calibration, data.validation, data.test]
    assert sum(len(p) for p in parts) == 1797
    batch = data.train.load(np.arange(4))
    assert batch.inputs.shape == (4, 1, 32, 32)
    assert batch.inputs.dtype == np.float32
    inputs = np.concatenate([p.load(np.arange(len(p))).inputs for p in parts])
    assert abs(inputs.mean()) < 0.1
    assert abs(inputs.std() - 1) < 0.1
    assert digits().fingerprint() == data.fingerprint() != digits(seed=1).fingerprint()


def test_a_shift_moves_the_whole_image():
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[0, 0, 4, 4] = 1
    samples = ArraySamples(image, np.zeros(1, np.int64), shift=2)
    places = {
        tuple(np.argwhere(samples.load(np.zeros(1, np.int64), np.random.default_rng(s)).inputs[0, 0])[0]) for s in range(99)
    }
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


def test_mirroring_is_left_right_and_half_the_time():
    image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    samples = ArraySamples(np.repeat(image, 200, 0), np.zeros(200, np.int64), mirror=True)
    rows = samples.load(np.arange(200), np.random.default_rng(0)).inputs[:, 0, 0].tolist()
    assert {tuple(r) for r in rows} == {(0.0, 1.0), (1.0, 0.0)}
    assert 60 < sum(r == [1.0, 0.0] for r in rows) < 140


def splits(**changed):
    parts = {name: blobs(20, seed) for seed, name in enumerate(("train", "calibration", "validation", "test"))}
    return Splits(**{**parts, **changed}, classes=("a", "b", "c", "d"))


def one_class():
    return ArraySamples(blobs(20).images, np.zeros(20, np.int64))


def with_nan():
    samples = blobs(20)
    samples.images[7, 0, 3, 3] = np.nan
    return samples


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"test": blobs(0)}, "the test split is empty"),
        ({"train": one_class()}, "the train split has one class only"),
        ({"calibration": with_nan()}, "the calibration split holds NaN or infinity .first in sample 7"),
        ({"validation": ArraySamples(blobs(20).images, np.full(20, 9))}, r"labels \[9\]; allowed: 0 to 3"),
    ],
)
def test_data_that_is_no_good_is_named(changed, words):
    with pytest.raises(UserError, match=words):
        Classification().check(splits(**changed))


def test_all_of_it_at_once():
    with pytest.raises(UserError) as caught:
        Classification().check(splits(test=blobs(0), train=one_class(), calibration=with_nan()))
    assert len(caught.value.faults) == 3


NORMALISE = Normalise(mean=(0.5, 0.25, 0.0), deviation=(0.5, 0.25, 1.0))


def bytes_of(count=6, channels=3, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def test_bytes_are_normalised_when_they_are_loaded():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[1] = 255
    batch = ArraySamples(images, np.array([3, -1], np.int16), normalise=NORMALISE).load(np.array([1, 0]))
    assert batch.inputs.dtype == np.float32
    assert batch.targets.dtype == np.int64
    np.testing.assert_allclose(batch.inputs[:, :, 0, 0], [[1, 3, 1], [-1, -1, 0]], atol=1e-6)
    assert batch.targets.tolist() == [-1, 3]


def test_what_a_shift_brings_in_is_black_before_normalising():
    white = np.full((1, 3, 6, 6), 255, np.uint8)
    samples = ArraySamples(white, np.zeros(1, np.int64), shift=2, normalise=NORMALISE)
    inputs = np.concatenate([samples.load(np.zeros(1, np.int64), np.random.default_rng(s)).inputs for s in range(20)])
    black, full = NORMALISE(np.zeros((3, 1, 1), np.uint8)), NORMALISE(np.full((3, 1, 1), 255, np.uint8))
    assert (np.isclose(inputs, black) | np.isclose(inputs, full)).all()
    assert np.isclose(inputs, black).any()
    filled = ArraySamples(white, np.zeros(1, np.int64), shift=2, fill=255, normalise=NORMALISE)
    np.testing.assert_allclose(
        filled.load(np.zeros(1, np.int64), np.random.default_rng(1)).inputs[0], full + np.zeros((6, 6))
    )


def test_augmenting_changes_neither_what_is_held_nor_the_next_batch():
    images = bytes_of()
    samples = ArraySamples(images.copy(), np.zeros(6, np.int64), shift=2, mirror=True, normalise=NORMALISE)
    every = np.arange(6)
    plain = samples.load(every).inputs
    first, again, other = (samples.load(every, np.random.default_rng(s)).inputs for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(samples.images, images)
    np.testing.assert_array_equal(samples.load(every).inputs, plain)


def test_the_fingerprint_is_of_content_and_settings():
    images, labels = bytes_of(), np.arange(6)
    prints = [
        ArraySamples(images, labels, normalise=NORMALISE),
        ArraySamples(bytes_of(seed=1), labels, normalise=NORMALISE),
        ArraySamples(images, labels[::-1], normalise=NORMALISE),
        ArraySamples(images, labels, normalise=NORMALISE, shift=1),
        ArraySamples(images, labels, normalise=NORMALISE, shift=1, fill=9),
        ArraySamples(images, labels, normalise=NORMALISE, mirror=True),
        ArraySamples(images, labels, normalise=replace(NORMALISE, order="bgr")),
        ArraySamples(images.astype(np.float32), labels),
    ]
    assert len({samples.fingerprint() for samples in prints}) == len(prints)
    transposed = np.ascontiguousarray(images.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    assert ArraySamples(transposed, labels, normalise=NORMALISE).fingerprint() == prints[0].fingerprint()


@pytest.mark.parametrize(
    ("images", "labels", "normalise", "words"),
    [
        (bytes_of(), 5, NORMALISE, "6 images and 5 labels"),
        (bytes_of(), 6, None, "uint8 images need normalise .* given: uint8 with normalise=None"),
        (bytes_of().astype(np.float32), 6, NORMALISE, "float32 images go without it"),
        (bytes_of(channels=1), 6, NORMALISE, r"\(samples, 3, height, width\).*given: \(6, 1, 8, 8\)"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, normalise, words):
    with pytest.raises(UserError, match=words):
        ArraySamples(images, np.zeros(labels, np.int64), normalise=normalise)


@given(
    train=st.integers(20, 200),
    others=st.sets(st.sampled_from(["validation", "test"])),
    validation=st.sampled_from([0.1, 0.25, 5]),
    seed=st.integers(0, 5),
)
def test_no_choice_and_no_verdict_sees_a_training_sample(train, others, validation, seed):
    counts = {"train": train, **dict.fromkeys(others, 7)}
    chosen = assign_splits(counts, validation=validation, test=0.2, calibration=9, seed=seed)
    rows = {name: {(part, int(row)) for row in indices} for name, (part, indices) in chosen.items()}
    assert all(len(rows[name]) == len(indices) > 0 for name, (_, indices) in chosen.items())
    assert rows["calibration"] <= rows["train"]
    assert len(rows["calibration"]) == 9
    apart = rows["train"] | rows["validation"] | rows["test"]
    assert len(apart) == sum(len(rows[name]) for name in ("train", "validation", "test")) == sum(counts.values())


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=6),
    seed=st.integers(0, 5),
)
def test_what_is_held_out_has_each_class_in_its_proportion(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    total = len(labels)
    sizes = {"test": max(total // 4, 1), "validation": max(total // 5, 1)}
    chosen = assign_splits({"train": total}, **sizes, calibration=max(total // 6, 1), seed=seed, labels=labels)
    rows = {name: indices for name, (_, indices) in chosen.items()}
    assert sorted([*rows["train"], *rows["validation"], *rows["test"]]) == list(range(total))
    for indices in rows.values():
        for label, count in enumerate(counts):
            assert abs((labels[indices] == label).sum() - len(indices) * count / total) <= 2
    again = assign_splits({"train": total}, **sizes, calibration=max(total // 6, 1), seed=seed, labels=labels)
    assert all((again[name][1] == indices).all() for name, indices in rows.items())


def test_labels_that_are_no_class_numbers_are_split_as_without():
    boxes = np.zeros((50, 3, 5), np.float32)
    sizes = {"validation": 0.2, "test": 0.2, "calibration": 9, "seed": 1}
    with_boxes, without = (assign_splits({"train": 50}, **sizes, labels=given) for given in (boxes, None))
    assert all((with_boxes[name][1] == without[name][1]).all() for name in without)


def test_a_split_that_lacks_a_class_is_told_and_one_of_a_single_class_refused():
    images = blobs(20).images
    told = Classification().check(splits(validation=ArraySamples(images, np.arange(20) % 3)))
    words = "the validation split has no sample of 1 of 4 classes (d): what a stage does to them is not seen"
    assert told == [words] and Classification().check(splits()) == []
    with pytest.raises(UserError, match=r"the validation split has one class only \(2\)"):
        Classification().check(splits(validation=ArraySamples(images, np.full(20, 2))))


def test_two_folders_as_imagenet_has_them():
    chosen = assign_splits({"train": 100, "validation": 30}, validation=0.1, calibration=8, seed=0)
    assert {name: (part, len(indices)) for name, (part, indices) in chosen.items()} == {
        "train": ("train", 90),
        "calibration": ("train", 8),
        "validation": ("train", 10),
        "test": ("validation", 30),
    }


@pytest.mark.parametrize(
    ("counts", "asked", "words"),
    [
        ({"train": 10}, {"validation": 6, "test": 5}, ["10 training samples cannot spare 5 for test and 6 for validation"]),
        ({"train": 3}, {"validation": 0.1, "test": 0.1}, ["cannot spare 0 for test and 0 for validation"]),
        ({"train": 10}, {"validation": -1, "calibration": 0}, ["validation is a share below 1", "calibration is a number"]),
        ({"train": 0, "test": 5}, {"validation": 0.1}, ["0 training samples"]),
    ],
)
def test_splits_that_cannot_be_made(counts, asked, words):
    with pytest.raises(UserError) as caught:
        assign_splits(counts, **{"calibration": 4, "seed": 0, **asked})
    assert len(caught.value.faults) == len(words)
    assert all(word in fault for word, fault in zip(words, caught.value.faults, strict=True))


def test_only_training_is_augmented():
    images, labels = bytes_of(40), np.arange(40)
    chosen = assign_splits({"train": 40}, validation=0.25, test=0.25, calibration=5, seed=0)
    settings = {"classes": ("a",) * 40, "normalise": NORMALISE, "mirror": True}
    shifted, plain = (array_splits({"train": (images, labels)}, chosen, shift=s, **settings) for s in (2, 0))
    assert shifted.train.fingerprint() != plain.train.fingerprint()
    for name in ("calibration", "validation", "test"):
        assert getattr(shifted, name).fingerprint() == getattr(plain, name).fingerprint()
    assert shifted.preprocessing == {
        "use": "image",
        "crop": "none",
        "interpolation": "bilinear, antialiased",
        "size": [8, 8],
        "mean": [0.5, 0.25, 0.0],
        "deviation": [0.5, 0.25, 1.0],
        "order": "rgb",
        "scale": 1.0,
    }
