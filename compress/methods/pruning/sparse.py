"""Sparse training: an L1 penalty on batch norm scales, so that pruning finds channels that do little (paper 15, step 1).

    gradient of gamma += s * sign(gamma)                      until ``start`` of the epochs
    then, for the largest ``relief_fraction`` of |gamma|:     += s * relief_factor * sign(gamma)

The threshold between the two is taken again at every step, over all batch norms together. The rate belongs to a step of the
optimizer: where gradients are accumulated over several backward passes, the first of them adds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from compress.models.layers import BATCH_NORMS


@contextmanager
def sparsity_penalty(
    module: nn.Module, rate: float, relief_fraction: float = 0.0, relief_factor: float = 1.0
) -> Iterator[None]:
    """Add the L1 rate to the gradients of all batch norm scales, once for each step of an optimizer."""
    scales = [m.weight for m in module.modules() if isinstance(m, BATCH_NORMS) and isinstance(m.weight, Tensor)]
    gradients: dict[Tensor, Tensor] = {}  # that hold the rate already

    def add(scale: Tensor) -> None:
        assert scale.grad is not None
        if gradients.get(scale) is not scale.grad:
            scale.grad += scale_subgradient(scale.detach(), scales, rate, relief_fraction, relief_factor)
            gradients[scale] = scale.grad

    handles = [scale.register_post_accumulate_grad_hook(add) for scale in scales]  # type: ignore[no-untyped-call]
    handles.append(register_optimizer_step_post_hook(lambda *_: gradients.clear()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def scale_subgradient(
    scale: Tensor, scales: Sequence[Tensor], rate: float, relief_fraction: float, relief_factor: float
) -> Tensor:
    """Compute the penalty's subgradient for one batch norm's scales; shape (channels,)."""
    pull = rate * scale.sign()
    if relief_fraction <= 0:
        return pull
    threshold = torch.cat([s.detach().abs().flatten() for s in scales]).quantile(1 - relief_fraction)
    return torch.where(scale.abs() >= threshold, relief_factor * pull, pull)
