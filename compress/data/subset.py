"""Subset of a split."""

from __future__ import annotations

from typing import final

import numpy as np

from compress.data.base import Batch, Indices, Samples
from deploy.processing.raws import Raw


@final
class Subset(Samples):
    """Samples of a split at ``indices``, in that order."""

    def __init__(self, samples: Samples, indices: Indices) -> None:
        self._samples, self.indices, self.classes = samples, indices, samples.classes
        self.augmentation = samples.augmentation

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        return self._samples.load(self.indices[indices], augment)

    def raw(self, index: int) -> Raw | None:
        return self._samples.raw(int(self.indices[index]))

    def fingerprint(self) -> str:
        return f"{self._samples.fingerprint()}-{self.indices.tolist()}"
