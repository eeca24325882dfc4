"""Feature maps from inside a module, by hooks that are gone when the block ends."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@final
class Taps:
    """Keeps the outputs of the named modules during each forward pass, in the order of ``names``."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._modules = [module.get_submodule(name) for name in names]
        self._kept: dict[int, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Taps:
        for index, module in enumerate(self._modules):
            self._handles.append(module.register_forward_hook(self._keeper(index)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._kept.clear()

    def features(self) -> list[Tensor]:
        """What the last forward pass left, each of shape (samples, channels, height, width)."""
        return [self._kept[index] for index in range(len(self._modules))]

    def _keeper(self, index: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._kept[index] = output

        return keep


def feature_maps(module: nn.Module, example: Tensor) -> dict[tuple[int, int], str]:
    """The last module whose output is a feature map of each (height, width) above 1x1, by resolution.

    A map that is among the module's own outputs is none: what a model predicts is compared by other losses.
    """
    order: list[tuple[str, Tensor]] = []
    handles = [child.register_forward_hook(_recorder(order, name)) for name, child in module.named_modules() if name]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            predicted = tree_leaves(module(example))
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    inner = [(name, output) for name, output in order if not any(output is leaf for leaf in predicted)]
    sizes = [(name, (output.shape[2], output.shape[3])) for name, output in inner]
    return {size: name for name, size in sizes if size[0] > 1 and size[1] > 1}


def pair_by_resolution(student: nn.Module, teacher: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Modules of student and teacher that end the same resolution, from the finest map to the coarsest."""
    ours, theirs = feature_maps(student, example), feature_maps(teacher, example)
    shared = sorted(set(ours) & set(theirs), reverse=True)
    return [(ours[size], theirs[size]) for size in shared]


def _recorder(order: list[tuple[str, Tensor]], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            order.append((name, output))

    return record
