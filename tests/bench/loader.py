"""The loader: how many images a core prepares, and how much of a training step that is."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.data.base import ArraySamples, Samples
from compress.data.fingerprints import thread_pool
from compress.data.images import images
from compress.data.transforms import IMAGENET, Normalise
from compress.models import resnet20
from tests.bench.figure import Figure, Table, at_least, at_most

BATCH = 128
ROUNDS = 50


def run() -> Table:
    with _one_core():
        samples = _cifar()
        per_batch_s = _batch_s(samples, ROUNDS)
        figures = [
            at_least("32x32x3 shifted by 4, mirrored, normalised; batch 128, one core", 20_000, BATCH / per_batch_s, "/s")
        ]
        hashing_s = _median_s(_of_200_mb().fingerprint, 3)
        figures += [at_most("fingerprint of 200 MB in memory", 0.5, hashing_s, " s")]
    share = 100 * per_batch_s / _step_s()
    figures += [at_most("such a batch against a step of ResNet-20 on both cores that waits for it", 5, share, " %")]
    if "EDGE_DATA" not in os.environ:
        return Table(figures=figures, remarks=["pictures were left out: EDGE_DATA does not say where the data sets are"])
    return Table(figures=[*figures, *_pictures(Path(os.environ["EDGE_DATA"]) / "data" / "imagenette224" / "heldout500")])


@contextmanager
def _one_core() -> Iterator[None]:
    """This thread, and the pool that decodes, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    thread_pool.cache_clear()
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        thread_pool.cache_clear()


def _normalise() -> Normalise:
    return Normalise(mean=IMAGENET[0], deviation=IMAGENET[1])


def _cifar() -> ArraySamples:
    """As many images as CIFAR-10 trains on, so that batches come from memory and not from the cache."""
    held = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    return ArraySamples(held, np.zeros(len(held), np.int64), shift=4, mirror=True, normalise=_normalise())


def _of_200_mb() -> ArraySamples:
    held = np.zeros((65_104, 3, 32, 32), np.uint8)
    return ArraySamples(held, np.zeros(len(held), np.int64), normalise=_normalise())


def _batch_s(samples: Samples, rounds: int) -> float:
    """Median seconds of an augmented batch of samples in random order."""
    order = np.random.default_rng(0).permutation(len(samples))
    batches = iter([order[start : start + BATCH] for start in range(0, len(order) - BATCH + 1, BATCH)] * rounds)
    return _median_s(lambda: samples.load(next(batches), np.random.default_rng(1)), rounds)


def _step_s() -> float:
    """Seconds of a step of ResNet-20 at batch 128, laid out as the trainer does; the fastest of ten, to be strict."""
    model = resnet20().train().to(memory_format=torch.channels_last)
    inputs = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        return min(_times_s(step, 10))
    finally:
        torch.set_num_threads(before)


def _pictures(folder: Path) -> Iterator[Figure]:
    """JPEGs of 224x224: random crops resized to 224, mirrored, normalised; and their hashes, read and remembered."""
    what = "JPEG of 224x224, a random crop resized to 224, mirrored, normalised; batch 128"
    both = BATCH / _batch_s(images(path=str(folder)).train, 8)
    with _one_core():
        one = BATCH / _batch_s(images(path=str(folder)).train, 8)
    yield Figure(what=f"{what}, one core", asked="", measured=f"{one:.0f}/s", met=None)
    yield Figure(what=f"{what}, both cores", asked="", measured=f"{both:.0f}/s", met=None)
    with _empty_memory():
        for when in ("first", "second"):
            started = time.perf_counter()
            images(path=str(folder)).fingerprint()
            measured = f"{time.perf_counter() - started:.3f} s"
            yield Figure(what=f"{when} fingerprint of 500 of them, by content", asked="", measured=measured, met=None)


@contextmanager
def _empty_memory() -> Iterator[None]:
    """A folder of steps where no hash is remembered yet."""
    before = os.environ.get("COMPRESS_STEPS", "runs/.steps")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["COMPRESS_STEPS"] = scratch
        try:
            yield
        finally:
            os.environ["COMPRESS_STEPS"] = before


def _median_s(work: Callable[[], object], rounds: int) -> float:
    return statistics.median(_times_s(work, rounds))


def _times_s(work: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round, after one that warms up."""
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times
