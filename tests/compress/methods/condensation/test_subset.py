"""What a subset takes: as many of each class, by the teacher's loss, within its bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.base import ArraySamples
from compress.methods.condensation.base import SetSource
from compress.methods.condensation.labels import balanced
from compress.methods.condensation.making import make_set
from compress.methods.condensation.random_subset import RandomSet
from compress.methods.condensation.sizes import MIB
from compress.methods.condensation.soft_labels import decode
from compress.methods.condensation.stored import file_bytes
from compress.methods.condensation.stored_samples import StoredSamples
from compress.methods.condensation.subset import SubsetSet, kept_by_score
from compress.tasks.classification import Classification
from profiles.errors import UserError

CLASSES = ("a", "b", "c")


class Brightness(nn.Module):
    """Scores of three classes from the first pixel: sure of a class where it is that class's number."""

    def forward(self, x):
        return -4.0 * (x[:, 0, 0, :1] - torch.tensor([0.0, 1.0, 2.0])) ** 2


def images(labels, off):
    """Images of one value: the label, and what it is off by."""
    values = np.asarray(labels, np.float32) + np.asarray(off, np.float32)
    return np.ones((len(values), 1, 8, 8), np.float32) * values[:, None, None, None]


def source(quiet, labels, off, seed=0):
    samples = ArraySamples(images(labels, off), np.asarray(labels, np.int64), shift=1)
    return SetSource(
        samples=samples,
        classes=CLASSES,
        preprocessing={},
        task=Classification(),
        teacher=Brightness(),
        teachers=[(Brightness(), 1.0)],
        example=torch.from_numpy(samples.images[:2]),
        seed=seed,
        progress=quiet,
    )


def twelve(quiet, **options):
    """Four of each class, off by 0, 0.1, 0.2 and 0.3 towards another: the harder the later."""
    off = np.tile([0.0, 0.1, 0.2, 0.3], 3) * np.repeat([1, 1, -1], 4)
    return source(quiet, np.repeat([0, 1, 2], 4), off, **options)


def test_as_many_of_each_class_by_rank():
    """Class 1 has one sample only, and leaves its place to the others."""
    targets, rank = np.array([0, 0, 0, 1, 2, 2, -1]), np.array([3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 0.0])
    assert balanced(targets, 4, rank, 3).tolist() == [1, 2, 3, 5]


@pytest.mark.parametrize(("keep", "kept"), [("easy", [0, 1, 2]), ("hard", [2, 3, 4]), ("middle", [1, 2, 3])])
def test_which_are_kept_by_loss(keep, kept):
    """0.4 of five are left out: two, the hardest, the easiest, or one of each."""
    assert np.flatnonzero(kept_by_score(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), keep, 0.4)).tolist() == kept


@pytest.mark.parametrize(("keep", "off"), [("easy", {0.0, 0.1}), ("hard", {0.2, 0.3})])
def test_a_subset_keeps_those_that_the_teacher_finds_easy_or_hard(quiet, keep, off):
    stored, notes = make_set(SubsetSet(per_class=2, keep=keep), twelve(quiet), "classification")
    assert np.bincount(stored.targets).tolist() == [2, 2, 2]
    found = np.abs(stored.inputs[:, 0, 0, 0].astype(np.float64) - stored.targets)
    assert {round(value, 1) for value in found.tolist()} == off
    assert notes == ("6 pictures of 12 that the teacher looked at",)


def test_combined_pictures_come_back_as_samples_of_their_class(quiet):
    stored, _ = make_set(SubsetSet(per_class=1, combine=2, drop=0), twelve(quiet), "classification")
    samples = StoredSamples(stored)
    assert (stored.stored, len(samples)) == (3, 12)
    assert stored.targets.tolist() == np.repeat([0, 1, 2], 4).tolist()
    values = samples.load(np.arange(12)).inputs
    assert np.abs(values.mean(axis=(1, 2, 3)) - stored.targets).max() < 0.35
    assert np.allclose(values.std(axis=(1, 2, 3)), 0, atol=1e-2)  # no tile shows two pictures


def test_soft_labels_are_the_teachers_of_the_samples_as_they_are_read_back(quiet):
    stored, _ = make_set(RandomSet(samples=6, labels="full"), twelve(quiet), "classification")
    samples = StoredSamples(stored)
    with torch.no_grad():
        wanted = Brightness()(torch.from_numpy(samples.load(np.arange(6)).inputs)).numpy()
    wanted -= wanted.max(axis=1, keepdims=True)
    assert np.allclose(decode(stored.soft, samples.labels, 3), wanted, atol=1e-2)
    assert samples.augmentation.shift == 1


@pytest.mark.parametrize("spec", [RandomSet, SubsetSet])
def test_a_set_of_so_many_bytes_is_no_larger_and_has_each_class_alike(quiet, spec):
    stored, _ = make_set(spec(size_mib=5300 / MIB), twelve(quiet), "classification")
    assert stored.stored == 6  # (5300 - 4096) // (64 * 2 + 1 + 3 + 4), and then a multiple of three
    assert len(file_bytes(stored)) <= 5300
    assert np.bincount(stored.targets).tolist() == [2, 2, 2]


def test_another_seed_draws_others(quiet):
    drawn = [make_set(RandomSet(per_class=2), twelve(quiet, seed=s), "classification")[0].inputs for s in (0, 0, 3)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_what_is_not_there_is_told_in_one_line(quiet):
    given = twelve(quiet)
    cases = [
        (
            RandomSet(per_class=5),
            "5 of each class are asked for, and the training split has of a 4, b 4, c 4; ask for at most 4",
        ),
        (SubsetSet(per_class=2, combine=2), "8 of each class are asked for"),
        (RandomSet(samples=13), "13 pictures are asked for, and the training split has 12"),
        (SubsetSet(per_class=1, combine=3), "images whose sides 3 divides"),
    ]
    for spec, words in cases:
        assert any(words in fault for fault in spec.faults(given))
    with pytest.raises(UserError, match="holds 0 inputs"):
        RandomSet(size_mib=0.001).make(given)


def test_samples_without_labels_are_taken_by_what_the_teacher_says(quiet):
    given = twelve(quiet)
    given.samples.labels[:] = -1
    stored, _ = make_set(SubsetSet(samples=6), given, "classification")
    assert (stored.targets == -1).all()
    assert np.bincount(np.round(stored.inputs[:, 0, 0, 0]).astype(int)).tolist() == [2, 2, 2]
