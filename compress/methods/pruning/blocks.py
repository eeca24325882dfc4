"""Removable residual blocks: with its weights at zero such a block is the identity.

On small inputs latency is layers, not channels; a block that goes takes all of its layers along.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.pruning.operations import Remove
from compress.models.inputs import ModelInputs, call
from compress.models.layers import flat_tensors

TOLERANCE = 1e-6


def removable_blocks(module: nn.Module, example: ModelInputs) -> tuple[str, ...]:
    """List the paths of the innermost removable modules, in the model's order.

    Such a module is called once, with one tensor, makes one tensor of the same shape, has weights, and gives back what it
    was given when they are all zero; and without it the model runs and makes outputs of the same shapes.
    """
    calls: dict[str, list[tuple[Any, Any]]] = {}
    layers = (nn.Conv2d, nn.Linear)
    paths = [p for p, m in module.named_modules() if p and any(isinstance(inner, layers) for inner in m.modules())]
    handles = [module.get_submodule(p).register_forward_hook(_recorder(calls, p)) for p in paths]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            shapes = [t.shape for t in flat_tensors(call(module, example))]
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    identities = [p for p in paths if _passes_on(module.get_submodule(p), calls.get(p, []))]
    innermost = [p for p in identities if not any(other.startswith(f"{p}.") for other in identities)]
    return tuple(p for p in innermost if _runs_without(module, p, example, shapes))


def _passes_on(block: nn.Module, calls: list[tuple[Any, Any]]) -> bool:
    if len(calls) != 1:
        return False
    given, output = calls[0]
    if (
        len(given) != 1
        or not isinstance(given[0], Tensor)
        or not isinstance(output, Tensor)
        or given[0].shape != output.shape
    ):
        return False
    silent = copy.deepcopy(block).eval()
    for name, tensor in silent.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.zero_()
    with torch.no_grad():
        passed = silent(given[0])
    return bool((passed - given[0]).abs().max() <= TOLERANCE * (1 + given[0].abs().max()))


def _runs_without(module: nn.Module, path: str, example: ModelInputs, shapes: list[torch.Size]) -> bool:
    try:
        without = Remove(blocks=(path,)).apply(copy.deepcopy(module)).eval()
        return [t.shape for t in flat_tensors(call(without, example))] == shapes
    except (AttributeError, RuntimeError, TypeError, IndexError):
        return False


def _recorder(calls: dict[str, list[tuple[Any, Any]]], path: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.setdefault(path, []).append((inputs, output))

    return record
