"""Samples that pruning looks at: for importance, damage, fits and means."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compress.data import Samples
from compress.methods.pruning.damage import damage_sample_count
from compress.methods.pruning.reconstruct import fit_sample_count
from compress.models.inputs import ModelInputs, as_tensors, sample_values

SAMPLES, BATCH = 512, 64
"""Training samples that importance is measured on, and of a batch."""


def importance_batches(samples: Samples) -> Iterator[tuple[ModelInputs, Tensor]]:
    """Yield inputs and targets from all over a split, not augmented."""
    for batch in samples.evenly_spaced_batches(SAMPLES, BATCH):
        yield as_tensors(batch.inputs), torch.from_numpy(batch.targets)


def damage_inputs(samples: Samples, example: ModelInputs) -> ModelInputs:
    """Load inputs from all over a split, as many as damage is measured on."""
    count = damage_sample_count(sample_values(example))
    spread: ModelInputs = as_tensors(next(samples.evenly_spaced_batches(count, count)).inputs)
    return spread


def fit_batches(samples: Samples, example: ModelInputs) -> list[ModelInputs]:
    """Load inputs from all over a split, as many as layers are fitted on, in batches."""
    count = fit_sample_count(sample_values(example))
    return [as_tensors(batch.inputs) for batch in samples.evenly_spaced_batches(count, BATCH)]


def calibration_inputs(samples: Samples) -> Iterator[ModelInputs]:
    """Yield the inputs of a split in batches."""
    for batch in samples.batches(BATCH):
        yield as_tensors(batch.inputs)
