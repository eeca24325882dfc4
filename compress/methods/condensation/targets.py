"""Error of a kernel ridge regression from a set to the teacher's features (KRR-ST, 2023, paper 5): no label is read."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3
"""Ridge in units of the kernel's mean diagonal."""


def regression_error(made: Tensor, targets: Tensor, real: Tensor, wanted: Tensor, ridge: float = RIDGE) -> Tensor:
    """Compute the mean squared error on real samples of the ridge regression that a set teaches; a scalar.

    W = F_s^T (F_s F_s^T + lambda I)^-1 Y_s, and the mean over samples of |wanted - F_r W|^2, over the mean square of
    ``wanted`` less its mean: 1 is a set that tells nothing. Features are given a constant beside them.

    Args:
        made, real: features (samples, width) of the set and of real samples, of the network that learns.
        targets: (samples, outputs) that the set has for its samples; they are learned with it.
        wanted: (samples, outputs) of the teacher on the real samples.
    """
    ours, theirs = (torch.cat([f, torch.ones_like(f[:, :1])], dim=1) for f in (made, real))
    kernel = ours @ ours.T
    size = kernel.diagonal().mean()
    solved = torch.linalg.solve(kernel + ridge * size * torch.eye(len(ours), dtype=made.dtype), targets)
    error = (wanted - theirs @ (ours.T @ solved)).square().mean()
    told: Tensor = error / (wanted - wanted.mean(dim=0)).square().mean().clamp_min(1e-12)
    return told
