"""What is matched: zero for a set that is the data, values by hand, gradients as finite differences say."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from compress.data.base import ArraySamples
from compress.execution.progress import StreamProgress
from compress.methods.condensation.attention import attention_distance
from compress.methods.condensation.base import SetSource
from compress.methods.condensation.characteristic import characteristic_distance
from compress.methods.condensation.making import make_set
from compress.methods.condensation.match import Matching, MatchSet, fresh
from compress.methods.condensation.moves import all_tiles, move_alike, with_mirror
from compress.methods.condensation.stored_samples import StoredSamples, cut_tiles
from compress.methods.condensation.targets import regression_error
from compress.models.resnet import resnet
from compress.tasks.classification import Classification
from tests.conftest import blobs


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_by_hand():
    """Two places, two channels: |3| + |1| = 4 and 3 -> (0.8, 0.6); 0 and 5 -> (0, 1): 0.64 + 0.16 apart. Outputs 2 apart."""
    real, made = torch.tensor([[[[3.0, -3.0]], [[-1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]], [[0.0, 3.0]]]])
    outputs = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    assert attention_distance([real], [made], *outputs).item() == pytest.approx(100 * (0.8 + 0.01 * 4), rel=1e-5)


def test_attention_of_equal_sets_in_another_order_is_zero_and_of_others_is_not():
    maps, outputs = [drawn(6, 4, 3, 3), drawn(6, 2, 2, 2, seed=1)], drawn(6, 5, seed=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    same = attention_distance(maps, [each[order] for each in maps], outputs, outputs[order])
    assert same.item() == pytest.approx(0, abs=1e-12)
    assert attention_distance(maps, [each[:3] for each in maps], outputs, outputs[:3]).item() > 0.1


def test_characteristic_functions_by_hand():
    """Real features 0 and 2 (middle 1, deviation 1), made 1: at t = 2 phi_r = cos 2, phi_s = 1.

    Their amplitudes are |cos 2| and 1, their phases pi apart: 0.5 (1 - |cos 2|)^2 + 0.5 * 2 (|cos 2| - cos 2).
    """
    value = characteristic_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])).item()
    cosine = math.cos(2)
    assert value == pytest.approx(300 * math.sqrt(0.5 * (1 - abs(cosine)) ** 2 + abs(cosine) - cosine), rel=1e-4)


def test_characteristic_functions_of_equal_sets_are_equal():
    features, frequencies = 3 + 2 * drawn(8, 5), drawn(64, 5, seed=1)
    assert characteristic_distance(features, features.flip(0), frequencies).item() == pytest.approx(0, abs=1e-3)
    assert characteristic_distance(features, features + 1, frequencies).item() > 10


def test_a_regression_on_the_data_itself_has_no_error_and_on_one_sample_knows_the_mean_alone():
    seen, wanted = drawn(5, 8), drawn(5, 3, seed=1)
    assert regression_error(seen, wanted, seen, wanted, ridge=1e-12).item() == pytest.approx(0, abs=1e-6)
    one = regression_error(torch.zeros(1, 8).double(), wanted.mean(dim=0, keepdim=True), seen * 0, wanted, ridge=1e-12)
    assert one.item() == pytest.approx(1.0, rel=1e-6)


def test_a_ridge_regression_by_hand():
    """One feature 2 and the constant: K = 5, ridge 0.2 of it, y = 3: W = (2, 1) * 3 / 6; at -1 it says -0.5."""
    found = regression_error(
        torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[-1.0], [2.0]]), torch.tensor([[0.5], [2.5]]), ridge=0.2
    )
    assert found.item() == pytest.approx(((0.5 + 0.5) ** 2 + (2.5 - 2.5) ** 2) / 2 / 1.0)


def test_gradients_are_those_of_finite_differences():
    real, outputs = [drawn(3, 2, 2, 2)], drawn(3, 2, seed=3)
    made, ours = (0.5 + drawn(2, 2, 2, 2, seed=1)).requires_grad_(True), drawn(2, 2, seed=2).requires_grad_(True)
    assert gradcheck(lambda m, o: attention_distance(real, [m], outputs, o), (made, ours))
    features, frequencies = drawn(5, 3), drawn(4, 3, seed=1)
    some = (1 + drawn(2, 3, seed=2)).requires_grad_(True)
    assert gradcheck(lambda m: characteristic_distance(features, m, frequencies), (some,))
    targets = drawn(2, 2, seed=3).requires_grad_(True)
    assert gradcheck(lambda m, y: regression_error(m, y, features, drawn(5, 2, seed=4), ridge=0.1), (some, targets))


def test_tiles_are_those_that_training_cuts():
    images = drawn(2, 3, 8, 8).float()
    cut = cut_tiles(np.repeat(images.numpy(), 4, 0), np.tile(np.arange(4), 2), 2)
    assert np.allclose(all_tiles(images, 2).numpy(), cut, atol=1e-6)


def test_all_are_moved_alike():
    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    moved = move_alike(images, 1, mirror=True, generator=torch.Generator().manual_seed(3))
    assert torch.equal(moved[1] - moved[0], torch.full((1, 4, 4), 16.0))
    assert not torch.equal(moved, images)
    assert torch.equal(move_alike(images, 0, mirror=False, generator=torch.Generator()), images)
    assert torch.equal(with_mirror(images)[2:], images.flip(-1))


def test_a_fresh_network_has_other_weights_and_the_same_structure():
    torch.manual_seed(0)
    module = resnet(blocks=1, width=0.25, in_channels=1, classes=4)
    made = fresh(module)
    assert not torch.equal(made.conv1.weight, module.conv1.weight)
    assert not any(p.requires_grad for p in made.parameters())
    assert made.state_dict().keys() == module.state_dict().keys()


def source(samples, **options):
    torch.manual_seed(1)
    module = resnet(blocks=1, width=0.25, in_channels=1, classes=4).eval().requires_grad_(False)
    given = {
        "samples": samples,
        "classes": ("a", "b", "c", "d"),
        "preprocessing": {},
        "task": Classification(),
        "teacher": module,
        "teachers": [(module, 1.0)],
        "example": torch.from_numpy(samples.images[:2]),
        "seed": 0,
        "progress": StreamProgress(io.StringIO()),
    }
    return SetSource(**{**given, **options})


@pytest.mark.parametrize("by", ["attention", "cf", "targets"])
def test_matching_brings_the_loss_down_and_keeps_the_classes_balance(by):
    given = source(blobs(48))
    spec = MatchSet(per_class=2, by=by, steps=30, learning_rate=0.02, real=12, labels="none")
    stored, (note,) = make_set(spec, given, "classification")
    first, last = (float(word) for word in note.rpartition("loss ")[2].split(" to "))
    assert last < first
    assert np.bincount(stored.targets).tolist() == [2, 2, 2, 2]
    again, _ = make_set(spec, given, "classification")
    assert np.array_equal(stored.inputs, again.inputs)


def test_a_set_that_is_the_data_has_no_loss_and_does_not_move():
    samples = blobs(16)
    spec = MatchSet(samples=16, by="attention", steps=1, real=16, labels="none")
    matching = Matching(spec, source(samples), torch.from_numpy(samples.labels), torch.Generator().manual_seed(0))
    first, _ = matching.optimise(torch.from_numpy(samples.images.copy()))
    assert first == pytest.approx(0, abs=1e-6)


def test_with_its_mirror_image_a_set_and_the_mirrored_one_are_alike():
    """FYI: the loss of a set is that of its mirror image, and without it is not."""
    samples = blobs(16)
    losses = {}
    for flip in (True, False):
        for side in (0, 1):
            spec = MatchSet(samples=4, by="attention", steps=1, real=16, flip=flip)
            labels = torch.arange(4)
            matching = Matching(spec, source(samples), labels, torch.Generator().manual_seed(0))
            start = torch.from_numpy(np.stack([samples.images[samples.labels == label][0] for label in range(4)]))
            losses[flip, side] = matching.optimise(start.flip(-1) if side else start.clone())[0]
    assert losses[True, 0] == pytest.approx(losses[True, 1], rel=1e-4)
    assert losses[False, 0] != pytest.approx(losses[False, 1], rel=1e-2)


def test_flip_and_combine_reach_the_stored_set():
    stored, _ = make_set(MatchSet(per_class=1, combine=2, flip=True, steps=1), source(blobs(48)), "classification")
    samples = StoredSamples(stored)
    assert (stored.stored, len(samples), samples.augmentation.mirror) == (4, 16, True)


def test_bad_input_is_told_in_one_line():
    unlabelled = ArraySamples(blobs(16).images, np.zeros((16, 2), np.float32))
    headless = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cases = [
        (MatchSet(samples=4), source(unlabelled), "goes by class labels"),
        (MatchSet(samples=4), source(blobs(16), teachers=[(headless, 1.0)]), "the teacher has none; take 'subset'"),
        (MatchSet(per_class=9), source(blobs(16)), "9 of each class are asked for"),
        (MatchSet(samples=4, combine=3), source(blobs(16)), "combine = 3 does not divide"),
    ]
    for spec, given, words in cases:
        assert any(words in fault for fault in spec.faults(given))
    named = replace(source(blobs(16)), example={"a": torch.zeros(2, 3)})
    assert "is of images" in MatchSet(samples=4).faults(named)[-1]
