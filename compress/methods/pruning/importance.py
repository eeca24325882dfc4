"""Importance of channels: one function a measure, averaged over the coupled layers.

A function is given a working copy of the model and batches; it returns a scorer of torch-pruning's groups, whose result has
one value a channel, or None for a group that it has no measure for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.models.layers import BATCH_NORMS

Scorer = Callable[[Any], "Tensor | None"]
Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]
"""The task's loss of outputs and targets."""


def l2(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score channels by the L2 norm of all their weights, on both sides (Li et al. 2017; coupled: Fang et al. 2023)."""
    scorer: Scorer = tp.importance.GroupMagnitudeImportance(p=2)
    return scorer


def bn_scale(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score by the size of the batch norms' scales, as they are (Liu et al. 2017, "Network Slimming").

    A group without batch norm has its L2 scores, scaled to the mean size of all scales of the model.
    """
    scales: Scorer = tp.importance.BNScaleImportance(group_reduction="mean", normalizer=None)
    plain: Scorer = tp.importance.GroupMagnitudeImportance(p=2)
    sizes = [m.weight.detach().abs().flatten() for m in work.modules() if isinstance(m, BATCH_NORMS) and m.affine]
    mean_size = torch.cat(sizes).mean() if sizes else torch.ones(())

    def score(group: Any) -> Tensor | None:
        scores = scales(group)
        if scores is not None:
            return scores
        norms = plain(group)
        return None if norms is None else norms / norms.mean().clamp(min=1e-12) * mean_size

    return score


def taylor(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score channels by first-order change of the loss: squared sum of weight x gradient (Molchanov et al. 2019, eq. 8).

    The gradient is the mean over ``batches``, the weights in evaluation mode.
    """
    work.zero_grad(set_to_none=True)
    for inputs, targets in batches:
        loss(work(inputs), targets).backward()  # type: ignore[no-untyped-call]
    scorer: Scorer = tp.importance.GroupTaylorImportance(group_reduction="mean", normalizer=None, multivariable=True)

    def score(group: Any) -> Tensor | None:
        scores = scorer(group)
        return None if scores is None else scores.square()

    return score


def activation(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score channels by mean absolute activation, over samples and positions (after Hu et al. 2016, "Network Trimming")."""
    totals: dict[nn.Module, Tensor] = {}
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)

    def keep(layer: nn.Module, given: Any, output: Tensor) -> None:
        axis = 1 if output.dim() == 4 else output.dim() - 1
        size = output.detach().abs().double().movedim(axis, 0).flatten(1).mean(1)
        totals[layer] = totals.get(layer, torch.zeros_like(size)) + size

    handles = [layer.register_forward_hook(keep) for layer in work.modules() if isinstance(layer, kinds)]
    try:
        with torch.no_grad():
            for inputs, _ in batches:
                work(inputs)
    finally:
        for handle in handles:
            handle.remove()
    cuts = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_batchnorm_out_channels)

    def score(group: Any) -> Tensor | None:
        means: list[Tensor] = []
        channels = len(group[0].root_idxs) if group[0].root_idxs else len(group[0].idxs)
        for dependency, indices in group:
            layer = dependency.target.module
            if dependency.handler in cuts and layer in totals and len(indices) == channels:
                means.append(totals[layer][torch.as_tensor(indices)])
        return torch.stack(means).mean(0) if means else None

    return score


IMPORTANCES: dict[str, Callable[[nn.Module, Batches, Loss], Scorer]] = {
    "l2": l2,
    "bn_scale": bn_scale,
    "taylor": taylor,
    "activation": activation,
}
COMPARABLE = frozenset({"bn_scale", "taylor"})
"""Measures that mean the same in every group; the others are scaled to mean 1 in each."""
BY_FAMILY = frozenset({"bn_scale"})
"""Measures whose size depends on where a layer stands: each family of groups has a threshold of its own (paper 15)."""
