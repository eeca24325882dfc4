"""Consumers of cut channels: the layers that read them, the batch norms behind those, and hooks on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.pruning.operations import Narrow
from compress.models.inputs import ModelInputs, call

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Hooks = Mapping[str, Callable[..., Any]]
"""By the path of the layer."""


def find_consumers(whole: nn.Module, operation: Narrow) -> dict[str, list[int]]:
    """Find the layers that lose inputs, by path, with the inputs that they lose."""
    lost: dict[str, list[int]] = {}
    for name, kept in operation.tensors.items():
        path, _, leaf = name.rpartition(".")
        layer = whole.get_submodule(path)
        if leaf == "weight" and isinstance(layer, Layer) and "1" in kept and getattr(layer, "groups", 1) == 1:
            stays = set(kept["1"])
            lost[path] = [i for i in range(layer.weight.shape[1]) if i not in stays]
    return lost


def following_norms(module: nn.Module, paths: Iterable[str], inputs: ModelInputs) -> dict[str, str]:
    """Find the batch norm that directly reads the output of each layer, by the layer's path."""
    outputs: dict[int, tuple[str, Tensor]] = {}
    norms: dict[str, str] = {}

    def after(path: str) -> Callable[..., None]:
        return lambda layer, given, output: outputs.__setitem__(id(output), (path, output))

    def norm(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if id(given[0]) in outputs:
                norms[outputs[id(given[0])][0]] = path

        return hook

    there = {path: norm(path) for path, layer in module.named_modules() if isinstance(layer, BatchNorm)}
    with forward_hooks(module, before=there, behind={path: after(path) for path in paths}):
        call(module, inputs)
    return norms


def shift_bias(cut: nn.Module, path: str, norm: str | None, shift: Tensor) -> bool:
    """Add to a layer's bias, or subtract from the mean of the batch norm behind it; return False where it has neither."""
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


def has_statistics(norm: nn.Module) -> bool:
    """Return whether a module is a batch norm with a scale of its own and running statistics, so that it can be reset."""
    return isinstance(norm, BatchNorm) and norm.affine and norm.running_var is not None


def norm_scales(norm: nn.Module) -> Tensor:
    """Compute the factor of each channel in a batch norm with statistics, in double precision."""
    assert isinstance(norm, BatchNorm) and norm.running_var is not None
    scaled: Tensor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scaled


def normalize_mean(norm: nn.Module, mean: Tensor) -> Tensor:
    """Compute the output of a batch norm with statistics for a mean of each channel."""
    assert isinstance(norm, BatchNorm) and norm.running_mean is not None
    return norm_scales(norm) * (mean - norm.running_mean.double()) + norm.bias.detach().double()


def set_statistics(norm: nn.Module, mean: Tensor, variance: Tensor, slope: Tensor, given: Tensor) -> None:
    """Set the running statistics of a batch norm, and its scale and shift with them.

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
def forward_hooks(module: nn.Module, *, before: Hooks | None = None, behind: Hooks | None = None) -> Iterator[None]:
    """Put ``module`` in evaluation mode without gradients, with hooks before and behind its layers, within the block."""
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
