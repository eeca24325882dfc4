"""Images of batch norms: no loss where statistics are kept, several teachers by their shares, classes alike."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.execution.progress import StreamProgress
from compress.methods.condensation.base import SetSource
from compress.methods.condensation.compensators import CompensatedSet
from compress.methods.condensation.making import make_set
from compress.methods.condensation.stored_samples import StoredSamples
from compress.methods.condensation.synthesised import Committee, SynthesisedSet
from compress.tasks.classification import Classification
from profiles.errors import UserError
from tests.conftest import blobs


class Net(nn.Module):
    """A batch norm on the pixels, and scores by the mean of each quarter: sure of a blob's class."""

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__()
        self.norm, self.scale = nn.BatchNorm2d(1, affine=False), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.avg_pool2d(self.norm(x), 8).flatten(1)


def seen(images: Tensor, scale: float = 4.0) -> Net:
    """A network whose batch norm has the statistics of images."""
    net = Net(scale)
    net.norm.running_mean, net.norm.running_var = images.mean((0, 2, 3)), images.var((0, 2, 3), unbiased=False)
    return net.eval().requires_grad_(False)


def source(*teachers, **options):
    samples = blobs(64)
    nets = teachers or [(seen(torch.from_numpy(samples.images)), 1.0)]
    given = {
        "samples": samples,
        "classes": ("a", "b", "c", "d"),
        "preprocessing": {},
        "task": Classification(),
        "teacher": nets[0][0],
        "teachers": nets,
        "example": torch.from_numpy(samples.images[:2]),
        "seed": 0,
        "progress": StreamProgress(io.StringIO()),
    }
    return SetSource(**{**given, **options})


def test_the_data_itself_has_no_distance_of_statistics():
    given = source()
    images, labels = torch.from_numpy(given.samples.images), torch.from_numpy(given.samples.labels)
    with Committee(given, 3.0, 1, torch.Generator()) as committee:
        entropy = functional.cross_entropy(given.teacher(images), labels).item()
        committee._gaps[0].taken()
        assert committee.loss(images, labels).item() == pytest.approx(entropy, abs=1e-5)
        moved = committee.loss(images + 2 * images.std(), labels).item()
    assert moved == pytest.approx(entropy + 3.0 * 4.0, rel=1e-3)  # two deviations off: squared, and weighed by 3


def test_teachers_count_by_their_shares():
    samples = blobs(64)
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    first, second = seen(images, 1.0), seen(images, 3.0)
    given = source((first, 1.0), (second, 3.0))
    entropies = [functional.cross_entropy(net(images), labels).item() for net in (first, second)]
    with Committee(given, 1.0, 2, torch.Generator()) as committee:
        both = committee.loss(images, labels).item()
    assert both == pytest.approx(0.25 * entropies[0] + 0.75 * entropies[1], rel=1e-4)
    with Committee(given, 1.0, 1, torch.Generator().manual_seed(0)) as committee:
        drawn = {round(committee.loss(images, labels).item(), 4) for _ in range(20)}
    assert drawn == {round(each, 4) for each in entropies}


def test_images_from_nothing_are_of_their_class_and_have_the_statistics():
    given = source()
    stored, notes = make_set(SynthesisedSet(per_class=8, steps=150, batch=32), given, "classification")
    samples = StoredSamples(stored)
    batch = samples.load(np.arange(32))
    assert np.bincount(batch.targets).tolist() == [8, 8, 8, 8]
    with torch.no_grad():
        said = given.teacher(torch.from_numpy(batch.inputs)).argmax(1).numpy()
    assert (said == batch.targets).mean() > 0.9
    assert batch.inputs.mean() == pytest.approx(given.samples.images.mean(), abs=0.1)
    assert batch.inputs.std() == pytest.approx(given.samples.images.std(), rel=0.1)
    assert notes == ("of the batch norms of 1 teacher, without data",)


def test_no_picture_of_the_data_is_read():
    given = source()
    made = make_set(SynthesisedSet(per_class=8, steps=3, batch=32), given, "classification")[0].inputs
    others = replace(given, samples=blobs(64, seed=5))
    assert np.array_equal(made, make_set(SynthesisedSet(per_class=8, steps=3, batch=32), others, "classification")[0].inputs)


def test_compensators_bring_pictures_to_the_statistics():
    """The teacher has seen images one brighter: the compensator adds it."""
    images = torch.from_numpy(blobs(64).images)
    given = source((seen(images + 1.0), 1.0))
    spec = CompensatedSet(per_class=8, compensators=1, steps=120, learning_rate=0.05, batch=32)
    stored, _ = make_set(spec, given, "classification")
    assert stored.compensators.shape == (1, 1, 16, 16)
    batch = StoredSamples(stored).load(np.arange(32))
    assert batch.inputs.mean() == pytest.approx((images + 1).mean().item(), abs=0.15)
    assert np.bincount(batch.targets).tolist() == [8, 8, 8, 8]


def test_compensators_are_shared_by_all_pictures_and_counted():
    given = source()
    stored, _ = make_set(CompensatedSet(per_class=2, compensators=3, steps=2, batch=8), given, "classification")
    samples = StoredSamples(stored)
    assert len(samples) == 8 * 3
    assert stored.size_by_part()["compensators"] == 3 * 2 * 256
    first = samples.load(np.arange(6)).inputs.reshape(2, 3, -1)
    assert np.allclose(first[0, 1] - first[0, 0], first[1, 1] - first[1, 0], atol=1e-5)


def test_without_batch_norm_it_is_said_what_can_be_done():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    for spec in (SynthesisedSet(per_class=2), CompensatedSet(per_class=2)):
        (fault,) = spec.faults(source((plain, 1.0)))
        assert "the teacher has no batch norm that keeps statistics of its data" in fault
        assert "take use = 'random', 'subset' or 'match'" in fault
    with pytest.raises(UserError, match="teacher 2 of 2 has no batch norm"):
        SynthesisedSet(per_class=2).make(source((seen(torch.ones(2, 1, 16, 16)), 1.0), (plain, 1.0)))
