"""A stored set is read back as it was, counted to the byte, and cut and mixed as it says."""

from dataclasses import replace

import numpy as np
import pytest

from compress.data.base import ArraySamples
from compress.data.transforms import Normalise
from compress.methods.condensation.stored import StoredSet, as_bytes, as_stored, file_bytes, load, normalise_of, save
from compress.methods.condensation.stored_samples import MixedSamples, StoredSamples, cut_tiles, join_tiles
from profiles.errors import UserError

NORMALISE = Normalise(mean=(0.4, 0.5, 0.3), deviation=(0.2, 0.3, 0.25))
FACTS = {
    "use": "random",
    "task": "classification",
    "classes": ["a", "b"],
    "inputs": {"input": [3, 8, 8]},
    "teacher": "0",
    "tiles": 1,
    "labels": "none",
    "normalise": {"mean": [0.4, 0.5, 0.3], "deviation": [0.2, 0.3, 0.25], "order": "rgb", "scale": 1.0},
    "augmentation": {"shift": 0, "mirror": False},
}


def made(count=5, **facts):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    tiles = int(facts.get("tiles", 1)) ** 2
    return StoredSet(inputs=images, targets=np.arange(count * tiles, dtype=np.int8) % 2, soft={}, facts={**FACTS, **facts})


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_bytes_come_back_through_normalisation(order):
    normalise = replace(NORMALISE, order=order)
    images = made().inputs
    assert np.array_equal(as_bytes(normalise(images), normalise), images)
    about = {**normalise.as_json()}
    assert normalise_of(about, normalise(images)) == normalise
    assert normalise_of({}, normalise(images)) is None


def test_floats_without_bytes_are_stored_in_half_precision_where_that_holds_them():
    assert as_stored(np.full((2, 1, 4), 0.5, np.float32), None).dtype == np.float16
    assert as_stored(np.full((2, 1, 4), 1e5, np.float32), None).dtype == np.float32


def test_the_file_is_read_back_and_its_bytes_are_told_by_part(tmp_path):
    stored = replace(made(), soft={"soft": np.ones((5, 2), np.float16)})
    save(tmp_path / "set.npz", stored)
    parts = stored.size_by_part()
    assert sum(parts.values()) == (tmp_path / "set.npz").stat().st_size
    assert (parts["inputs"], parts["targets"], parts["soft labels"]) == (5 * 192, 5, 20)
    again = load(tmp_path / "set.npz")
    assert file_bytes(again) == file_bytes(stored)
    assert StoredSamples(again).fingerprint() == StoredSamples(stored).fingerprint()


def test_what_is_no_set_is_told_in_one_line(tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    short = made()
    save(tmp_path / "short.npz", replace(short, targets=short.targets[:3]))
    for name, words in (("none", "no such file"), ("other", "no set of"), ("text", "is no .npz"), ("short", "3 targets")):
        with pytest.raises(UserError, match=words) as caught:
            load(tmp_path / f"{name}.npz")
        assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "facts",
    [
        {"normalise": {"mean": [0.5], "deviation": [0.2], "order": "rgb", "scale": 1.0}},
        {"normalise": {"mean": ["no"], "deviation": [0.2]}},
        {"normalise": {"mean": [0.4, 0.5, 0.3], "deviation": [0.0, 0.3, 0.25], "order": "rgb", "scale": 1.0}},
        {"augmentation": {"turn": 3}},
        {"tiles": "four"},
    ],
)
def test_facts_that_do_not_fit_are_told_in_one_line(tmp_path, facts):
    stored = made()
    save(tmp_path / "set.npz", replace(stored, facts={**stored.facts, **facts}))
    with pytest.raises(UserError) as caught:
        load(tmp_path / "set.npz")
    assert len(caught.value.faults) == 1


def test_samples_are_normalised_and_moved_with_black():
    stored = made(augmentation={"shift": 3, "mirror": True})
    samples = StoredSamples(replace(stored, inputs=np.full((5, 3, 8, 8), 255, np.uint8)))
    assert np.allclose(samples.load(np.arange(5)).inputs[0, :, 0, 0], (1 - np.array([0.4, 0.5, 0.3])) / [0.2, 0.3, 0.25])
    moved = samples.load(np.arange(5), np.random.default_rng(0)).inputs
    values = np.unique(np.round(moved[:, 0], 4))
    assert values.tolist() == pytest.approx([-2.0, 3.0], abs=1e-3)  # black and white of the first channel
    assert np.array_equal(moved, samples.load(np.arange(5), np.random.default_rng(0)).inputs)


def test_tiles_of_one_colour_come_back_whole():
    colours = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1) * np.ones((8, 3, 8, 8), np.float32)
    joined = join_tiles(colours, 2)
    assert joined.shape == (2, 3, 8, 8)
    assert joined[1, 0, 0, 0] == 4
    assert joined[1, 0, 7, 0] == 6
    back = cut_tiles(np.repeat(joined, 4, 0), np.tile(np.arange(4), 2), 2)
    assert np.allclose(back, colours)


def test_a_set_has_a_sample_for_each_tile_and_compensator():
    given = np.array([0.5, -0.25], np.float16).reshape(2, 1, 1, 1) * np.ones((2, 3, 8, 8), np.float16)
    stored = replace(made(tiles=2), compensators=given, targets=np.arange(5 * 4 * 2, dtype=np.int8) % 2)
    samples = StoredSamples(stored)
    assert len(samples) == 40
    whole = NORMALISE(stored.inputs)
    first, second = samples.load(np.array([8 * 3 + 2 * 3, 8 * 3 + 2 * 3 + 1])).inputs
    tile = cut_tiles(whole[3:4], np.array([3]), 2)[0]
    assert np.allclose(first, tile + 0.5, atol=1e-6)
    assert np.allclose(second, tile - 0.25, atol=1e-6)


def test_pictures_are_mixed_in_by_their_share():
    pictures = ArraySamples(np.full((4, 3, 8, 8), 9, np.float32), np.full(4, -1))
    mixed = MixedSamples(StoredSamples(made()), pictures, 0.75)
    assert (len(mixed), mixed.unlabelled) == (20, 15)
    batch = mixed.load(np.array([7, 0, 19, 4]))
    assert (batch.inputs[[0, 2]] == 9).all()
    assert batch.targets.tolist() == [-1, 0, -1, 0]
    assert np.array_equal(batch.inputs[[1, 3]], StoredSamples(made()).load(np.array([0, 4])).inputs)
    few = MixedSamples(StoredSamples(made()), pictures, 0.2)
    assert (few.labelled, few.unlabelled) == (16, 4)


def test_pictures_of_another_size_are_told():
    with pytest.raises(UserError, match=r"pictures are of shape \(3, 4, 4\)"):
        MixedSamples(StoredSamples(made()), ArraySamples(np.zeros((4, 3, 4, 4), np.float32), np.zeros(4)), 0.5)
