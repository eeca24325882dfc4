"""Samples brought to the largest size that there is an engine for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.base import Batch, Indices, Samples
from deploy.engines.inputs import Inputs
from deploy.engines.serving import Sizes, fitted

UNLABELLED = -1


@final
class SizedSamples(Samples):
    """Samples of a split, cut behind their end or filled up to the largest size; targets of each place follow.

    Args:
        samples: all of one size.
        sizes: where samples end, and what fills up.

    Raises:
        ValueError: on ``load``, of a sample that is longer than the largest size.
    """

    def __init__(self, samples: Samples, sizes: Sizes) -> None:
        self._samples, self._sizes, self.classes = samples, sizes, samples.classes

    def __len__(self) -> int:
        return len(self._samples)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        return resized(self._samples.load(indices, augment), self._sizes, self._sizes.largest)

    def fingerprint(self) -> str:
        sizes = self._sizes  # all of them: training cuts a batch to the smallest that holds it
        settings = repr((sizes.name, sizes.sizes, dict(sizes.axes), sizes.mask, dict(sizes.fill)))
        return hashlib.sha256(f"{self._samples.fingerprint()} {settings}".encode()).hexdigest()


def resized(batch: Batch, sizes: Sizes, size: int) -> Batch:
    """Bring a batch to a size; targets of each place (samples, places) are cut or filled with -1."""
    width = sizes.width(batch.inputs)
    if width == size or not len(batch):
        return batch
    targets = batch.targets
    if targets.ndim > 1 and targets.shape[1] == width and targets.dtype.kind == "i":
        targets = fitted(targets, 1, size, UNLABELLED)
    return Batch(sizes.at(batch.inputs, size), targets)


def as_long_as_its_longest(batch: Batch, sizes: Sizes) -> Batch:
    """Cut a batch to the smallest size that holds all of its samples."""
    return resized(batch, sizes, int(sizes.fitting(batch.inputs).max()))


def too_long(name: str, samples: Samples, sizes: Sizes, chunk: int = 512) -> list[str]:
    """Say how many samples of a split are longer than the largest size."""
    lengths: npt.NDArray[Any] = np.concatenate([sizes.lengths(batch.inputs) for batch in samples.batches(chunk)])
    over = int((lengths > sizes.largest).sum())
    if not over:
        return []
    fact = f"{over} of {len(samples)} samples of {name} are longer than {sizes.largest}"
    return [f"[input] {sizes.name}: {fact} (the longest has {int(lengths.max())}); give a larger size"]


def mix(samples: Samples, sizes: Sizes, chunk: int = 512) -> dict[int, float]:
    """Return the share of samples that goes to each size."""
    chosen = np.concatenate([sizes.fitting(batch.inputs) for batch in samples.batches(chunk)])
    return {size: float((chosen == size).mean()) for size in sizes.sizes}


def names_of(inputs: Inputs) -> list[str]:
    """Return the inputs' names; a single one is called ``input``."""
    return [*inputs] if isinstance(inputs, Mapping) else ["input"]
