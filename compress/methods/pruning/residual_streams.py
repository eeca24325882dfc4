"""Residual streams: where a layer's output is added to one, found by trying."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from compress.methods.pruning.consumers import forward_hooks, has_statistics
from compress.models.inputs import ModelInputs, call

TOLERANCE = 1e-4


def find_streams(module: nn.Module, paths: Iterable[str], norms: Mapping[str, str], inputs: ModelInputs) -> dict[str, str]:
    """Find for each layer whose output is added to a stream the innermost module around it that ends with the sum.

    With the layer's output silenced such a module gives the stream, and with any other the sum of both. An activation
    behind the sum does not matter where it passes the stream on as it is, as ReLU does what another ReLU gave.

    Args:
        norms: the batch norm behind a layer; what that gives is the layer's output then.
    """
    calls = _calls(module, inputs)
    ends_by_path: dict[str, str] = {}
    for path in paths:
        point = norms.get(path, path)
        if path in norms and not has_statistics(module.get_submodule(point)):
            continue
        around = [b for b in _ancestors(path) if point.startswith(f"{b}.") and len(calls.get(b, ())) == 1]
        ends = next((b for b in around if _adds(module.get_submodule(b), point.removeprefix(f"{b}."), *calls[b][0])), None)
        if ends is not None:
            ends_by_path[path] = ends
    return ends_by_path


def _adds(block: nn.Module, point: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the output of ``point`` is added to something at the end of ``block``."""
    given: list[Tensor] = []

    def with_given(make: Any) -> Any:
        def instead(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            given.append(make(output))
            return given[-1].clone()  # the sum may be computed in place

        with forward_hooks(block, behind={point: instead}):
            own_args, own_kwargs = tree_map(_own, (args, kwargs))  # what it reads may be changed in place
            return block(*own_args, **own_kwargs)

    stream = with_given(torch.zeros_like)
    if not isinstance(stream, Tensor) or len(given) != 1 or stream.shape != given[0].shape or not bool(stream.any()):
        return False
    random, size = torch.Generator().manual_seed(0), float(stream.abs().mean())
    summed = with_given(lambda output: size * torch.rand(output.shape, generator=random))
    return bool((summed - stream - given[1]).abs().max() <= TOLERANCE * size)


def _calls(module: nn.Module, inputs: ModelInputs) -> dict[str, list[tuple[Any, Any]]]:
    """Record the arguments of every module inside; of lists as they are then, since what runs on may add to them."""
    calls: dict[str, list[tuple[Any, Any]]] = {}

    def recorder(path: str) -> Any:
        return lambda _, args, kwargs: calls.setdefault(path, []).append(tree_map(lambda leaf: leaf, (args, kwargs)))

    handles = [
        inner.register_forward_pre_hook(recorder(path), with_kwargs=True) for path, inner in module.named_modules() if path
    ]
    try:
        with forward_hooks(module):
            call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _ancestors(path: str) -> list[str]:
    """List the paths of the modules around one, the innermost first, without the whole."""
    parts = path.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
