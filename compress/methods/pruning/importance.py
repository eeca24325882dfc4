"""Importance of channels: one function a measure, averaged over the coupled layers.

A function is given a working copy of the model and batches; it returns a scorer of sets of channels, whose result has
one value a channel, or None for a set that it has no measure for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.pruning.structure.coupling import ChannelSet, Slices
from compress.models.inputs import ModelInputs, call
from compress.models.layers import BATCH_NORMS

Scorer = Callable[[ChannelSet], "Tensor | None"]
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
Batches = Iterable[tuple[ModelInputs, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]
"""The task's loss of outputs and targets."""


def l2(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score channels by the squared L2 norm of their weights, on both sides (Li et al. 2017; coupled: Fang et al. 2023).

    Example: a channel with weights (3, 4) where it is made and (1, 2) where it is read has (25 + 5) / 2.
    """
    tensors = dict(work.named_parameters())

    def size(slices: Slices) -> Tensor | None:
        if not _is_weight(work, slices):
            return None
        return _over(tensors[slices.tensor].detach().double().square(), slices.axis)

    return lambda channels: _mean(channels, size)


def bn_scale(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score by the size of the batch norms' scales, as they are (Liu et al. 2017, "Network Slimming").

    A group without batch norm has its L2 scores, scaled to the mean size of all scales of the model.
    """
    tensors = dict(work.named_parameters())
    norms = [m for m in work.modules() if isinstance(m, BATCH_NORMS) and m.affine]
    sizes = [m.weight.detach().abs().flatten() for m in norms]
    mean_size = torch.cat(sizes).double().mean() if sizes else torch.ones(())
    plain = l2(work, batches, loss)

    def scale(slices: Slices) -> Tensor | None:
        path, _, leaf = slices.tensor.rpartition(".")
        if leaf != "weight" or not isinstance(work.get_submodule(path), BATCH_NORMS):
            return None
        return tensors[slices.tensor].detach().double().abs()

    def score(channels: ChannelSet) -> Tensor | None:
        scores = _mean(channels, scale)
        if scores is not None:
            return scores
        weights = plain(channels)
        return None if weights is None else weights / weights.mean().clamp(min=1e-12) * mean_size

    return score


def taylor(work: nn.Module, batches: Batches, loss: Loss) -> Scorer:
    """Score channels by first-order change of the loss: squared sum of weight x gradient (Molchanov et al. 2019, eq. 8).

    The gradient is the mean over ``batches``, the weights in evaluation mode.
    """
    work.zero_grad(set_to_none=True)
    for parameter in work.parameters():
        parameter.requires_grad_(True)
    for inputs, targets in batches:
        loss(call(work, inputs), targets).backward()  # type: ignore[no-untyped-call]
    tensors = dict(work.named_parameters())

    def change(slices: Slices) -> Tensor | None:
        if not _is_weight(work, slices):
            return None
        parameter = tensors[slices.tensor]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return _over(parameter.detach().double() * gradient.double(), slices.axis).abs()

    def score(channels: ChannelSet) -> Tensor | None:
        scores = _mean(channels, change)
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
                call(work, inputs)
    finally:
        for handle in handles:
            handle.remove()

    def mean(slices: Slices) -> Tensor | None:
        path, _, leaf = slices.tensor.rpartition(".")
        layer = work.get_submodule(path)
        makes = slices.makes if slices.weighs else isinstance(layer, nn.BatchNorm2d)
        return totals[layer] if leaf == "weight" and makes and layer in totals else None

    return lambda channels: _mean(channels, mean)


def _mean(channels: ChannelSet, measure: Callable[[Slices], Tensor | None]) -> Tensor | None:
    """Average a measure of each index of each tensor, over what a channel is of it and over the tensors."""
    found = [(values, slices) for slices in channels.slices if (values := measure(slices)) is not None]
    if not found:
        return None
    return torch.stack([values[torch.from_numpy(slices.indices)].mean(1) for values, slices in found]).mean(0)


def _is_weight(work: nn.Module, slices: Slices) -> bool:
    """Return whether a tensor is the weight of a layer or the scale of a norm."""
    path, _, leaf = slices.tensor.rpartition(".")
    return slices.weighs or (leaf == "weight" and isinstance(work.get_submodule(path), NORMS))


def _over(values: Tensor, axis: int) -> Tensor:
    return values.movedim(axis, 0).flatten(1).sum(1) if values.dim() > 1 else values


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
