"""Forward hooks for features inside a module, and pairs of layers of student and teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.models.layers import first_tensor
from profiles.errors import UserError

LayerPairs = list[tuple[str, str]]
"""Names of modules in student and teacher whose outputs are compared."""


class FeatureSource(Protocol):
    """Features of a module's last forward pass."""

    def features(self) -> list[Tensor]:
        """Return the outputs of the hooked layers, in the order of their names."""

    def embedding(self) -> Tensor:
        """Return the input of the head, (samples, width)."""


@final
class FeatureHooks:
    """Forward hooks on the named modules; they keep each forward pass's outputs, in the order of ``names``.

    Args:
        head: a layer whose input is kept too.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], head: str | None = None) -> None:
        self._modules = [module.get_submodule(name) for name in names]
        self._head = None if head is None else module.get_submodule(head)
        self._kept: dict[int, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._embedding: Tensor | None = None

    def __enter__(self) -> FeatureHooks:
        for index, module in enumerate(self._modules):
            self._handles.append(module.register_forward_hook(self._keeper(index)))
        if self._head is not None:
            self._handles.append(self._head.register_forward_pre_hook(self._keep_input))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._kept.clear()
        self._embedding = None

    def features(self) -> list[Tensor]:
        """Return the outputs of the last forward pass."""
        return [self._kept[index] for index in range(len(self._modules))]

    def embedding(self) -> Tensor:
        """Return the head's input in the last forward pass, (samples, width)."""
        assert self._embedding is not None, "the head was not called"
        return self._embedding

    def _keeper(self, index: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._kept[index] = first_tensor(output)

        return keep

    def _keep_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._embedding = inputs[0]


@final
@dataclass(frozen=True, kw_only=True)
class ModuleLayers:
    """Shapes of a module's layers in one forward pass.

    Attributes:
        shapes: of the maps and token sequences that are not the module's own outputs, by module, in the order of calls.
        head: the last linear layer that reads vectors, (samples, width); None when there is none.
    """

    shapes: dict[str, tuple[int, ...]]
    head: str | None

    @staticmethod
    def of(module: nn.Module, example: Tensor) -> ModuleLayers:
        """Trace ``module`` on inputs of shape (samples, ...)."""
        order: list[tuple[str, Tensor]] = []
        heads: list[str] = []
        named = [(name, child) for name, child in module.named_modules() if name]
        handles = [child.register_forward_hook(_recorder(order, heads, name)) for name, child in named]
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                predicted = tree_leaves(module(example))
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()
        # A map that is among the module's own outputs is none: what a model predicts is compared by other losses.
        inner = [(name, tuple(output.shape)) for name, output in order if not any(output is leaf for leaf in predicted)]
        last = {name: number for number, (name, _) in enumerate(inner)}
        shapes = {name: shape for number, (name, shape) in enumerate(inner) if last[name] == number}
        return ModuleLayers(shapes=shapes, head=heads[-1] if heads else None)

    def maps(self) -> dict[tuple[int, int], str]:
        """Return the last module whose output is, or folds into, a map of each (height, width) above 1x1."""
        sizes = [(name, map_size(shape)) for name, shape in self.shapes.items()]
        return {size: name for name, size in sizes if size is not None and min(size) > 1}

    def blocks(self) -> list[str]:
        """Return the outermost numbered modules (``layer1.0``, ``blocks.3``) in call order; maps where there are none."""
        outermost = [name for name in self.shapes if _is_block(name)]
        return outermost or list(self.maps().values())


def pair_maps(student: ModuleLayers, teacher: ModuleLayers) -> LayerPairs:
    """Pair modules that end the same resolution, from the finest map to the coarsest; by depth where none is shared."""
    ours, theirs = student.maps(), teacher.maps()
    shared = sorted(set(ours) & set(theirs), reverse=True)
    if shared:
        return [(ours[size], theirs[size]) for size in shared]
    return pair_by_depth(list(ours.values()), list(theirs.values()))


def pair_blocks(student: ModuleLayers, teacher: ModuleLayers) -> LayerPairs:
    """Pair the blocks of both by depth."""
    return pair_by_depth(student.blocks(), teacher.blocks())


def pair_by_depth(student: Sequence[str], teacher: Sequence[str]) -> LayerPairs:
    """Pair each module of the shorter list with the one that ends at the same share of the other's depth."""
    count = min(len(student), len(teacher))
    ends = [[names[math.ceil((i + 1) * len(names) / count) - 1] for i in range(count)] for names in (student, teacher)]
    return list(zip(*ends, strict=True))


def embeddings(module: nn.Module, inputs: npt.NDArray[Any], name: str, chunk: int = 256) -> npt.NDArray[Any]:
    """Return the inputs of the last linear layer, (samples, width).

    Raises:
        UserError: the module has no such layer.
    """
    module.eval()
    head = ModuleLayers.of(module, torch.from_numpy(inputs[:2])).head
    if head is None:
        raise UserError(f"{name} has no embedding: no linear layer that reads vectors (samples, width)")
    rows = []
    with FeatureHooks(module, [], head) as hooks, torch.no_grad():
        for start in range(0, len(inputs), chunk):
            module(torch.from_numpy(inputs[start : start + chunk]))
            rows.append(hooks.embedding().float().numpy())
    return np.concatenate(rows)


def map_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return height and width of a map, or of tokens that fold into a square (class token aside); None for others."""
    if len(shape) == 4:
        return shape[2], shape[3]
    side = math.isqrt(shape[1])
    return (side, side) if side * side in (shape[1], shape[1] - 1) else None


def as_map(output: Tensor) -> Tensor:
    """Fold tokens (samples, tokens, width) into (samples, width, side, side) without a class token; maps stay."""
    if output.dim() == 4:
        return output
    side = math.isqrt(output.shape[1])
    patches = output[:, output.shape[1] - side * side :]
    return patches.transpose(1, 2).reshape(output.shape[0], output.shape[2], side, side)


def as_tokens(output: Tensor) -> Tensor:
    """Flatten maps into tokens, one a pixel: (samples, height * width, channels); tokens stay."""
    return output.flatten(2).transpose(1, 2) if output.dim() == 4 else output


def _is_block(name: str) -> bool:
    *above, last = name.split(".")
    return last.isdigit() and not any(part.isdigit() for part in above)


def _recorder(order: list[tuple[str, Tensor]], heads: list[str], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.dim() in (3, 4):
            order.append((name, tensor))
        if isinstance(module, nn.Linear) and inputs and inputs[0].dim() == 2:
            heads.append(name)

    return record
