"""The example of data of one's own, on sheets written here, and on the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.models.factory import factory
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return factory("cifar_sheets:splits")


@pytest.fixture
def folder(tmp_path):
    """Three sheets; tile t of sheet s is of the level s * 10 + t % 10, but for its first pixel (t // 4 and s)."""
    for part, count in (("train", 2), ("test", 1)):
        for sheet in range(count):
            tiles = np.zeros((1000, 32, 32, 3), np.uint8)
            for tile in range(1000):
                tiles[tile] = sheet * 10 + tile % 10
                tiles[tile, 0, 0] = (tile // 4, sheet, 255)
            pixels = tiles.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
            Image.fromarray(pixels).save(tmp_path / f"{part}_{sheet:02d}.webp", lossless=True, quality=0, method=0)
        np.save(tmp_path / f"{part}_labels.npy", np.tile(np.arange(1000) % 10, (count, 1)).astype(np.uint8))
    return tmp_path


def test_every_tile_is_in_its_place_and_keeps_its_label(splits, folder):
    data = splits(path=str(folder), validation=300, calibration=64)
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [1700, 300, 64, 1000]
    np.testing.assert_array_equal(data.test.images[:, 0, 0, 0], np.arange(1000) // 4)
    np.testing.assert_array_equal(data.test.images[:, 1, 5, 7], data.test.labels)
    np.testing.assert_array_equal(data.train.images[:, 1, 31, 31] % 10, data.train.labels)
    assert set(data.train.images[:, 1, 0, 0].tolist()) == {0, 1}
    Classification().check(data)
    assert data.preprocessing["mean"] == [0.485, 0.456, 0.406]


def test_sheets_that_are_missing_or_of_another_size(splits, folder):
    (folder / "train_01.webp").unlink()
    with pytest.raises(UserError, match=r"labels for 2 sheets of train and lacks train_01\.webp"):
        splits(path=str(folder))
    Image.new("RGB", (640, 800)).save(folder / "train_01.webp")
    with pytest.raises(UserError, match=r"train_01.webp is of \(640, 800\) pixels; a sheet is of \(1280, 800\)"):
        splits(path=str(folder))
    (folder / "test_labels.npy").unlink()
    with pytest.raises(UserError, match=r"has no test_labels\.npy"):
        splits(path=str(folder))


@pytest.mark.slow
def test_the_real_sheets_are_cifar10(splits):
    """Known answers: a thousand of each class in test, and the mean and deviation that everybody's recipe has."""
    if "EDGE_DATA" not in os.environ:
        pytest.skip("EDGE_DATA does not say where the data sets are")
    data = splits(path=str(Path(os.environ["EDGE_DATA"]) / "data" / "cifar10"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [45000, 5000, 10000]
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    scaled = np.concatenate([data.train.images, data.validation.images])[::5] / np.float32(255)
    np.testing.assert_allclose(scaled.mean(axis=(0, 2, 3)), [0.4914, 0.4822, 0.4465], atol=0.005)
    np.testing.assert_allclose(scaled.std(axis=(0, 2, 3)), [0.2470, 0.2435, 0.2616], atol=0.005)
