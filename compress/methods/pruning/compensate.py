"""Bias compensation: the mean output of pruned channels is folded into the layers that read them.

A channel whose scale has gone to zero makes the constant act(shift); group channel pruning (paper 15) adds that constant's
effect to the next bias, or takes it off the next batch norm's mean:

    bias += sum over pruned c of  W[:, c].sum(kernel) * m_c        running_mean -= the same

Here m_c is the mean of what channel c made over calibration samples, which for such a channel is that constant and for any
other the best one. Borders, where the kernel reaches into the padding, are off as in the paper's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from compress.methods.pruning.consumers import Layer, find_consumers, following_norms, forward_hooks, shift_bias
from compress.methods.pruning.operations import Narrow
from compress.models.inputs import ModelInputs, call, count, rows


def compensate(whole: nn.Module, cut: nn.Module, operation: Narrow, batches: Iterable[ModelInputs]) -> tuple[str, ...]:
    """Fold the mean of dropped channels into biases and batch norm means of ``cut``, in place.

    Args:
        whole: the model before ``operation``; ``cut``: after it, with the same paths.
        batches: calibration inputs.

    Returns:
        Paths of layers that lost inputs and where nothing was shifted: they have neither a bias nor a batch norm behind
        them, or are not called themselves.
    """
    lost = find_consumers(whole, operation)
    given = iter(batches)
    first = next(given)
    norms, means = following_norms(whole, lost, rows(first, slice(1))), _means(whole, lost, chain([first], given))
    left: list[str] = []
    for path, dropped in lost.items():
        if path not in means:  # not called: another layer reads its weight, as attention does of its projection
            left.append(path)
            continue
        layer = whole.get_submodule(path)
        assert isinstance(layer, Layer)
        weight = layer.weight.detach().double()
        sums = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        shift = sums[:, dropped] @ means[path][dropped]
        kept = operation.tensors[f"{path}.weight"].get("0")
        shift = shift if kept is None else shift[torch.tensor(kept)]
        if not shift_bias(cut, path, norms.get(path), shift):
            left.append(path)
    return tuple(left)


def _means(module: nn.Module, paths: Iterable[str], batches: Iterable[ModelInputs]) -> dict[str, Tensor]:
    """Compute the mean of each input channel of some layers."""
    totals: dict[str, Tensor] = {}

    def before(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            axis = given[0].dim() - 1 if isinstance(layer, nn.Linear) else 1
            total = given[0].detach().double().movedim(axis, 0).flatten(1).mean(1) * len(given[0])
            totals[path] = totals.get(path, torch.zeros_like(total)) + total

        return hook

    seen = 0
    with forward_hooks(module, before={path: before(path) for path in paths}):
        for inputs in batches:
            call(module, inputs)
            seen += count(inputs)
    return {path: total / max(seen, 1) for path, total in totals.items()}
