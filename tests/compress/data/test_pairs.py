"""Pairs of images: found by name or made by degrading, cut alike, numbers with their unit; what does not fit is named."""

import numpy as np
import pytest
from PIL import Image

from compress.data.pairs import pairs
from profiles.errors import UserError


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Eight pictures of 24 x 20 pixels whose red is the column and green the row."""
    rows, columns = np.mgrid[0:20, 0:24].astype(np.uint8)
    for number in range(8):
        save(tmp_path / "photos" / f"{number}.png", np.stack([8 * columns, 8 * rows, 0 * rows + number], axis=2))
    return tmp_path / "photos"


def as_pairs(root, times=2):
    """Inputs and targets in which a target's every pixel is that of the input before it was enlarged."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            small = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            save(root / part / "inputs" / f"{number}_lr.png", small)
            save(root / part / "targets" / f"{number}.png", small.repeat(times, axis=0).repeat(times, axis=1))
    return root


def test_a_patch_and_its_target_are_cut_mirrored_and_turned_alike(tmp_path):
    splits = pairs(path=as_pairs(tmp_path), size=6, enlarge=2, input_suffix="_lr")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [4, 2, 2]
    for augment in (None, np.random.default_rng(0), np.random.default_rng(1)):
        batch = splits.train.load(np.arange(4), augment)
        assert batch.inputs.shape == (4, 3, 6, 6) and batch.targets.shape == (4, 3, 12, 12)
        np.testing.assert_array_equal(batch.inputs.repeat(2, axis=2).repeat(2, axis=3), batch.targets)
    middle = np.asarray(Image.open(tmp_path / "test/inputs/1_lr.png"))[2:8, 3:9] / np.float32(255)
    np.testing.assert_allclose(splits.test.load(np.array([1])).inputs[0], middle.transpose(2, 0, 1), atol=1e-7)


def test_inputs_are_normalised_and_targets_are_not(tmp_path):
    plain = pairs(path=as_pairs(tmp_path), size=6, enlarge=2, input_suffix="_lr").test.load(np.arange(2))
    options = {"mean": [0.5] * 3, "deviation": [0.25] * 3, "order": "bgr"}
    made = pairs(path=tmp_path, size=6, enlarge=2, input_suffix="_lr", **options).test.load(np.arange(2))
    np.testing.assert_allclose(made.inputs, (plain.inputs[:, ::-1] - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_array_equal(made.targets, plain.targets)


def test_a_degraded_image_is_smaller_and_its_target_is_itself(photos):
    splits = pairs(path=photos, size=8, degrade=True, enlarge=2, validation=2, test=2)
    batch = splits.test.load(np.arange(2))
    assert batch.targets.shape == (2, 3, 16, 16)
    ramps = batch.targets[0, 0, 0] * 255, batch.inputs[0, 0, 0] * 255
    np.testing.assert_allclose(np.diff(ramps[0]), 8, atol=1e-4)
    np.testing.assert_allclose(np.diff(ramps[1]), 16, atol=1.01)
    np.testing.assert_allclose(ramps[1], ramps[0].reshape(8, 2).mean(axis=1), atol=1.01)


def test_noise_is_new_in_training_and_always_the_same_in_test(photos):
    splits = pairs(path=photos, size=16, degrade=True, noise=20, validation=2, test=2)
    first, second = (splits.test.load(np.arange(2)) for _ in range(2))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    one, two = (splits.train.load(np.arange(4), np.random.default_rng(seed)).inputs for seed in (0, 1))
    assert (one != two).any()
    inner = (first.targets > 0.3) & (first.targets < 0.7)
    assert 255 * (first.inputs - first.targets)[inner].std() == pytest.approx(20, abs=3)


def test_numbers_have_their_unit_and_what_is_invalid_has_no_value(tmp_path):
    depth = np.array([[0, 1000], [2500, 65535]], np.uint16)
    save(tmp_path / "rgb/a.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "depth/a.png", depth)
    for number in range(3):
        save(tmp_path / f"rgb/{number}.png", np.zeros((2, 2, 3), np.uint8))
        np.save(tmp_path / f"depth/{number}.npy", depth.astype(np.float32))
    splits = pairs(path=tmp_path, size=2, step=0.001, invalid=[0], turn=False, mirror=False, validation=1, test=1)
    for part in (splits.train, splits.validation, splits.test):
        for target in part.load(np.arange(len(part))).targets:
            np.testing.assert_allclose(target, [[[np.nan, 1.0], [2.5, 65.535]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degrade": True}, "degrade makes images smaller .*; given: enlarge = 1, noise = 0, step = 0"),
        ({"degrade": True, "enlarge": 2, "size": 13}, "is of 12x10 pixels, less than a patch of 13x13"),
        ({"degrade": True, "enlarge": 2, "size": [4, 6]}, r"only square patches can be turned; .*given: size \[4, 6\]"),
        ({"noise": 5.0}, "(?s)noise is added to images that are made worse.*has no train/inputs"),
        ({}, "has no train/inputs and train/targets, nor inputs and targets; it has 0.png"),
    ],
)
def test_options_that_do_not_fit(photos, options, words):
    with pytest.raises(UserError, match=words):
        pairs(**{"path": photos, "size": 8, **options}).train.load(np.arange(3))


def test_bad_pairs_are_named(tmp_path):
    as_pairs(tmp_path)
    (tmp_path / "train/targets/1.png").unlink()
    with pytest.raises(UserError, match=r"inputs/1_lr.png has no pair in targets; .*targets/1.png is expected"):
        pairs(path=tmp_path, size=6, enlarge=2, input_suffix="_lr")
    save(tmp_path / "train/targets/1.png", np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r"1_lr.png: input and target are of 12x10 and 12x10; its target has 2 times"):
        pairs(path=tmp_path, size=6, enlarge=2, input_suffix="_lr").train.load(np.arange(4))
    (tmp_path / "train/inputs/1_lr.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1_lr.png cannot be decoded \(it is empty\)"):
        pairs(path=tmp_path, size=6, enlarge=2, input_suffix="_lr").train.load(np.arange(4))
