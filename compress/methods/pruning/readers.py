"""Layers that read what a cut takes away: which they are, what stands behind them, and how they are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.pruning.operations import Narrow

Layer = nn.Conv2d | nn.Linear
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Hooks = Mapping[str, Callable[..., Any]]
"""By the path of the layer."""


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
    made: dict[int, tuple[str, Tensor]] = {}
    norms: dict[str, str] = {}

    def after(path: str) -> Callable[..., None]:
        return lambda layer, given, output: made.__setitem__(id(output), (path, output))

    def norm(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if id(given[0]) in made:
                norms[made[id(given[0])][0]] = path

        return hook

    there = {path: norm(path) for path, layer in module.named_modules() if isinstance(layer, BatchNorm)}
    with hooked(module, before=there, behind={path: after(path) for path in paths}):
        module(inputs)
    return norms


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


def restatable(norm: nn.Module) -> bool:
    """Whether a module is a batch norm with a scale of its own and with statistics, so that it can be restated."""
    return isinstance(norm, BatchNorm) and norm.affine and norm.running_var is not None


def slopes(norm: nn.Module) -> Tensor:
    """What a restatable batch norm multiplies each channel by, in double precision."""
    assert isinstance(norm, BatchNorm) and norm.running_var is not None
    scaled: Tensor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scaled


def passed(norm: nn.Module, mean: Tensor) -> Tensor:
    """What a restatable batch norm makes of a mean of each channel."""
    assert isinstance(norm, BatchNorm) and norm.running_mean is not None
    return slopes(norm) * (mean - norm.running_mean.double()) + norm.bias.detach().double()


def restate(norm: nn.Module, mean: Tensor, variance: Tensor, slope: Tensor, given: Tensor) -> None:
    """Give a restatable batch norm the statistics of what it reads now.

    Args:
        slope: what it multiplies by then. given: what it makes of ``mean``; all of each channel.
    """
    assert isinstance(norm, BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.bias.copy_(given)


@contextmanager
def hooked(module: nn.Module, *, before: Hooks | None = None, behind: Hooks | None = None) -> Iterator[None]:
    """``module`` in evaluation mode and without gradients, with hooks before and behind its layers."""
    training = module.training
    module.eval()
    handles: list[Any] = [module.get_submodule(p).register_forward_pre_hook(hook) for p, hook in (before or {}).items()]
    handles += [module.get_submodule(p).register_forward_hook(hook) for p, hook in (behind or {}).items()]
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
