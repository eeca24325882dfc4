import numpy as np
import pytest

from compress.data.transforms import apply_cut_mix, apply_self_mix
from compress.execution import distributed
from compress.training.loader import Batches, Place
from compress.training.schedule import Schedule
from profiles.errors import UserError
from tests.conftest import blobs


def batches(count=64, **settings):
    samples = blobs(count)
    samples.images[:, 0, 0, 0] = np.arange(count)  # so that a sample can be told
    return Batches(samples, Schedule(**{"epochs": 2, "batch_size": 16, **settings}), seed=3)


def ids(batch):
    return batch.inputs[:, 0, 0, 0].astype(int).tolist()


def test_an_epoch_is_every_sample_once_in_another_order_each_time():
    loader = batches()
    epochs = [[i for s in range(4) for i in ids(loader.load(Place(e, s, 0)))] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
    assert epochs[0] != epochs[1]


def test_what_does_not_fill_a_step_is_dropped():
    assert batches(70).steps_an_epoch == 4
    assert batches(5).batch_size == 5


def test_accumulated_parts_are_the_same_step():
    whole, parts = batches(), batches(accumulate=4)
    together = [i for p in parts.places(5) for i in ids(parts.load(p))]
    assert together == ids(whole.load(*whole.places(5)))


def test_processes_share_a_step(monkeypatch):
    whole = ids(batches().load(Place(0, 1, 0)))
    shared = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "count", lambda: 2)
        monkeypatch.setattr(distributed, "index", lambda rank=rank: rank)
        shared += ids(batches().load(Place(0, 1, 0)))
    assert shared == whole


def test_realisations_repeat():
    loader = batches(epochs=6, realisations=2)
    assert loader.places(4 * 4) == loader.places(0)
    assert loader.places(4) != loader.places(0)


def test_a_step_too_small_to_share_is_refused():
    with pytest.raises(UserError, match="16 samples cannot be shared by 1 process.* with accumulate = 32"):
        batches(accumulate=32)


def test_fetching_ahead_changes_nothing():
    loader = batches()
    with loader.fetched(2) as steps:
        fetched = [ids(part.batch) for step in steps for part in step]
    assert fetched == [ids(loader.load(p)) for s in range(2, loader.steps) for p in loader.places(s)]


def test_an_error_while_loading_reaches_the_loop():
    loader = batches()
    loader._samples.images = None
    with pytest.raises(TypeError), loader.fetched(0) as steps:
        next(steps)


def test_self_mix_shows_parts_of_the_same_image_and_leaves_the_label():
    """All values of a mixed image are its own; a quarter to a half of each side changes; the share is about as asked."""
    images = np.arange(200 * 64, dtype=np.float32).reshape(200, 1, 8, 8)
    mixed = apply_self_mix(images, 0.5, np.random.default_rng(0))
    changed = (mixed != images).reshape(200, -1).sum(axis=1)
    assert set(changed) <= {0, *(h * w for h in (2, 3) for w in (2, 3))}
    assert 60 < (changed > 0).sum() < 110
    assert all(set(m.flat) <= set(i.flat) for m, i in zip(mixed, images, strict=True))
    np.testing.assert_array_equal(apply_self_mix(images, 0.0, np.random.default_rng(0)), images)


@pytest.mark.parametrize("mix", ["self_mix", "cut_mix"])
def test_a_mix_is_decided_by_the_place_and_leaves_the_label(mix):
    plain, mixed, again = batches(), batches(**{mix: 1.0}), batches(**{mix: 1.0})
    place = plain.places(1)[0]
    np.testing.assert_array_equal(mixed.load(place).inputs, again.load(place).inputs)
    assert (mixed.load(place).inputs != plain.load(place).inputs).any()
    np.testing.assert_array_equal(mixed.load(place).targets, plain.load(place).targets)


def test_cut_mix_shows_a_region_of_another_image_of_the_batch():
    """An image of one value tells where it came from: a rectangle is of one other, the rest its own; areas are even."""
    images = np.broadcast_to(np.arange(400, dtype=np.float32)[:, None, None, None], (400, 1, 16, 16))
    mixed = apply_cut_mix(images, 0.5, np.random.default_rng(0))
    shares = []
    for index, image in enumerate(mixed[:, 0]):
        rows, columns = np.nonzero(image != index)
        if not rows.size:
            continue
        region = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert region.size == rows.size and len(np.unique(region)) == 1
        shares.append(region.size / image.size)
    assert 140 < len(shares) < 210
    assert 0.2 < np.mean(shares) < 0.4  # half, less what lies outside
    np.testing.assert_array_equal(apply_cut_mix(images, 0.0, np.random.default_rng(0)), images)


@pytest.mark.parametrize("mix", ["self_mix", "cut_mix"])
def test_a_mix_is_for_images(mix):
    flat = batches(**{mix: 1.0})
    flat._samples.images = flat._samples.images.reshape(64, -1)
    with pytest.raises(UserError, match=f"{mix} is for images"):
        flat.load(flat.places(1)[0])
