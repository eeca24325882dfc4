"""Synthetic calibration samples (ZeroQ, Cai et al. 2020): inputs that match the statistics of every batch norm.

Cai et al. 2020 (ZeroQ, equation 3). They give ranges; nothing is trained or judged on them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, final

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
    if not batch_norms(module):
        raise UserError("calibration samples cannot be made from batch norms: the model has none; give samples")
    training, asked = module.training, [p.requires_grad for p in module.parameters()]
    module.eval().requires_grad_(False)
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    optimizer = torch.optim.Adam([inputs], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    try:
        with StatisticsGap(module) as gap:
            for _ in range(steps):
                module(inputs)
                optimizer.zero_grad()
                gap.taken().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    finally:
        module.train(training)
        for parameter, wanted in zip(module.parameters(), asked, strict=True):
            parameter.requires_grad_(wanted)
    return np.asarray(inputs.detach().numpy(), np.float32)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """List the batch norms of a module that have statistics."""
    return [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]


@final
class StatisticsGap:
    """Distance of a batch's statistics from the running ones of every batch norm, as a context manager."""

    def __init__(self, module: nn.Module) -> None:
        self._norms, self._apart = batch_norms(module), list[Tensor]()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> StatisticsGap:
        for norm in self._norms:
            self._handles.append(norm.register_forward_pre_hook(lambda n, given: self._apart.append(_apart(n, given[0]))))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def taken(self) -> Tensor:
        """Return the sum over batch norms in the forward passes since it was taken last; a scalar."""
        total = torch.stack(self._apart).sum()
        self._apart.clear()
        return total


def _apart(norm: Any, given: Tensor) -> Tensor:
    """Compute the squared distance of a batch norm's batch statistics from its running ones, in running deviations."""
    axes = [axis for axis in range(given.dim()) if axis != 1]
    known = (norm.running_var + norm.eps).sqrt()
    means = (given.mean(axes) - norm.running_mean) / known
    deviations = (given.var(axes, unbiased=False) + norm.eps).sqrt() / known - 1
    apart: Tensor = means.square().mean() + deviations.square().mean()
    return apart
