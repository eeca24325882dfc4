"""Random subset: pictures of the training split, as many of each class; what every other set is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from compress.methods.condensation.base import Draft, RecoverySet, SetSource
from compress.methods.condensation.sizes import choose_samples, size_faults, stored_count


@final
@dataclass(frozen=True, kw_only=True)
class RandomSet(RecoverySet):
    """Pictures of the training split by the recipe's seed, as many of each class."""

    use = "random"

    def faults(self, source: SetSource) -> list[str]:
        return size_faults(self, source)

    def make(self, source: SetSource) -> Draft:
        count = min(stored_count(self, source), len(source.samples))
        rank = np.random.default_rng((source.seed, 56)).random(len(source.samples))
        batch = source.samples.load(choose_samples(source, count, rank))
        return Draft(inputs=batch.inputs, targets=batch.targets)
