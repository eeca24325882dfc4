"""Losses on feature maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attention(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Distance of spatial attention maps (Zagoruyko and Komodakis 2017, equation 2; paper 15's A(F)).

    A(F) is the mean over channels of F squared, flattened over space and scaled to unit length; the loss
    is the squared distance of the two maps of each pair, averaged over samples and summed over pairs.
    Channel counts may differ; each map is (samples, channels, height, width), equal sizes in a pair.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    distances = [(_map(s) - _map(t)).square().sum(dim=1).mean() for s, t in pairs]
    return torch.stack(distances).sum()


def _map(features: Tensor) -> Tensor:
    """(samples, channels, height, width) to unit vectors (samples, height * width)."""
    return functional.normalize(features.float().square().mean(dim=1).flatten(1), dim=1)
