"""Bias compensation: what pruned channels contributed on average is folded into the layers that read them.

A channel whose scale has gone to zero makes the constant act(shift); group channel pruning (paper 15) adds that constant's
effect to the next bias, or takes it off the next batch norm's mean:

    bias += sum over pruned c of  W[:, c].sum(kernel) * m_c        running_mean -= the same

Here m_c is the mean of what channel c made over calibration samples, which for such a channel is that constant and for any
other the best one. Borders, where the kernel reaches into the padding, are off as in the paper's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from compress.surgery import Narrow

Layer = nn.Conv2d | nn.Linear
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def compensate(whole: nn.Module, cut: nn.Module, operation: Narrow, batches: Iterable[Tensor]) -> tuple[str, ...]:
    """Shift biases and means of ``cut``, in place.

    Args:
        whole: the model before ``operation``; ``cut``: after it, with the same paths.
        batches: calibration inputs.

    Returns:
        Paths of layers that lost inputs and have neither a bias nor a batch norm behind them, so that nothing was shifted.
    """
    lost = readers(whole, operation)
    given = iter(batches)
    first = next(given)
    norms, means = norms_behind(whole, lost, first[:1]), _means(whole, lost, chain([first], given))
    left: list[str] = []
    for path, dropped in lost.items():
        layer = whole.get_submodule(path)
        assert isinstance(layer, Layer)
        weight = layer.weight.detach().double()
        sums = weight.flatten(2).sum(2) if weight.dim() == 4 else weight
        shift = sums[:, dropped] @ means[path][dropped]
        kept = operation.tensors[f"{path}.weight"].get("0")
        shift = shift if kept is None else shift[torch.tensor(kept)]
        if not shift_constant(cut, path, norms.get(path), shift):
            left.append(path)
    return tuple(left)


def readers(whole: nn.Module, operation: Narrow) -> dict[str, list[int]]:
    """Layers that lose inputs, by path, with the inputs that they lose."""
    found: dict[str, list[int]] = {}
    for name, kept in operation.tensors.items():
        path, _, leaf = name.rpartition(".")
        layer = whole.get_submodule(path)
        if leaf == "weight" and isinstance(layer, Layer) and "1" in kept and getattr(layer, "groups", 1) == 1:
            stays = set(kept["1"])
            found[path] = [i for i in range(layer.weight.shape[1]) if i not in stays]
    return found


def norms_behind(module: nn.Module, paths: Iterable[str], inputs: Tensor) -> dict[str, str]:
    """The batch norm that reads the output of each layer as it is, by the layer's path."""
    wanted = set(paths)
    made: dict[int, tuple[str, Tensor]] = {}
    norms: dict[str, str] = {}

    def after(path: str) -> Any:
        return lambda layer, given, output: made.__setitem__(id(output), (path, output))

    def norm(path: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if id(given[0]) in made:
                norms[made[id(given[0])][0]] = path

        return hook

    handles: list[Any] = []
    for path, layer in module.named_modules():
        if path in wanted:
            handles.append(layer.register_forward_hook(after(path)))
        elif isinstance(layer, BatchNorm):
            handles.append(layer.register_forward_pre_hook(norm(path)))
    _run(module, [inputs], handles)
    return norms


def _means(module: nn.Module, paths: Iterable[str], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The mean of each input channel of some layers."""
    totals: dict[str, Tensor] = {}

    def before(path: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            axis = 1 if given[0].dim() == 4 else given[0].dim() - 1
            total = given[0].detach().double().movedim(axis, 0).flatten(1).mean(1) * len(given[0])
            totals[path] = totals.get(path, torch.zeros_like(total)) + total

        return hook

    handles = [module.get_submodule(path).register_forward_pre_hook(before(path)) for path in paths]
    seen = _run(module, batches, handles)
    return {path: total / max(seen, 1) for path, total in totals.items()}


def _run(module: nn.Module, batches: Iterable[Tensor], handles: Sequence[Any]) -> int:
    """Run ``module`` in evaluation mode, and remove the hooks; how many samples there were."""
    training, seen = module.training, 0
    module.eval()
    try:
        with torch.no_grad():
            for inputs in batches:
                module(inputs)
                seen += len(inputs)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return seen


def shift_constant(cut: nn.Module, path: str, norm: str | None, shift: Tensor) -> bool:
    """Add to a layer's bias, or take off the mean of the batch norm behind it; False where it has neither."""
    layer = cut.get_submodule(path)
    with torch.no_grad():
        if isinstance(layer.bias, Tensor):
            layer.bias += shift.to(layer.bias)
            return True
        behind = cut.get_submodule(norm) if norm else None
        if isinstance(behind, BatchNorm) and behind.running_mean is not None:
            behind.running_mean -= shift.to(behind.running_mean)
            return True
    return False
