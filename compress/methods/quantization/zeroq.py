"""Synthetic calibration samples (ZeroQ, Cai et al. 2020): inputs that match the statistics of every batch norm.

Cai et al. 2020 (ZeroQ, equation 3). They give ranges; nothing is trained or judged on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.models.layers import BATCH_NORMS
from profiles.errors import UserError


def synthesize(
    module: nn.Module, shape: tuple[int, ...], count: int, seed: int, *, steps: int = 200, learning_rate: float = 0.1
) -> npt.NDArray[np.float32]:
    """Optimise ``count`` inputs of ``shape`` together; (count, *shape). The module is left as it is.

    Raises:
        UserError: the module has no batch norm with statistics.
    """
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]
    if not norms:
        raise UserError("calibration samples cannot be made from batch norms: the model has none; give samples")
    training, asked = module.training, [p.requires_grad for p in module.parameters()]
    module.eval().requires_grad_(False)
    apart: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(lambda norm, given: apart.append(_apart(norm, given[0]))) for norm in norms]
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    optimizer = torch.optim.Adam([inputs], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    try:
        for _ in range(steps):
            apart.clear()
            module(inputs)
            optimizer.zero_grad()
            torch.stack(apart).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    finally:
        for handle in handles:
            handle.remove()
        module.train(training)
        for parameter, wanted in zip(module.parameters(), asked, strict=True):
            parameter.requires_grad_(wanted)
    return np.asarray(inputs.detach().numpy(), np.float32)


def _apart(norm: Any, given: Tensor) -> Tensor:
    """Compute the squared distance of a batch norm's batch statistics from its running ones, in running deviations."""
    axes = [axis for axis in range(given.dim()) if axis != 1]
    known = (norm.running_var + norm.eps).sqrt()
    means = (given.mean(axes) - norm.running_mean) / known
    deviations = (given.var(axes, unbiased=False) + norm.eps).sqrt() / known - 1
    apart: Tensor = means.square().mean() + deviations.square().mean()
    return apart
