"""Distance of attention maps of a set and the data (DataDAM, 2023, paper 28)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

WEIGHT, OUTPUTS = 100.0, 0.01
"""Weights of the paper's code: of attention maps, and of the last layer in units of that."""


def attention_distance(real: Sequence[Tensor], made: Sequence[Tensor], real_outputs: Tensor, made_outputs: Tensor) -> Tensor:
    """Compute the squared distance of mean attention maps, layer by layer, and of mean outputs; zero for equal sets.

    100 * (sum over layers of |mean A(real) - mean A(made)|^2 + 0.01 |mean outputs(real) - mean outputs(made)|^2), where A is
    the sum over channels of |f| at each place, scaled to unit length for each sample (exponents as in the authors' code).

    Args:
        real, made: maps (samples, channels, height, width) of each layer, of samples of one class.
        real_outputs, made_outputs: (samples, outputs) of the last layer.
    """
    pairs = zip(real, made, strict=True)
    distances = [(_map(r).mean(dim=0) - _map(m).mean(dim=0)).square().sum() for r, m in pairs]
    last = (real_outputs.mean(dim=0) - made_outputs.mean(dim=0)).square().sum()
    return WEIGHT * (torch.stack([*distances, last.new_zeros(())]).sum() + OUTPUTS * last)


def _map(features: Tensor) -> Tensor:
    """Return unit attention maps, (samples, places)."""
    return functional.normalize(features.abs().sum(dim=1).flatten(1), dim=1)
