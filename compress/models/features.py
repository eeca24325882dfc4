"""Forward hooks for features inside a module, and pairs of layers of student and teacher."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.models.inputs import ModelInputs, call, count, rows
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
        layouts: ``map``, (samples, channels, ...) of one to three dimensions, or ``tokens``, (samples, tokens, width); by
            the layer that made them, since (samples, a, b) may be either.
        head: the last linear layer that reads vectors, (samples, width); None when there is none.
    """

    shapes: dict[str, tuple[int, ...]]
    head: str | None
    layouts: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(module: nn.Module, example: ModelInputs) -> ModuleLayers:
        """Trace ``module`` on inputs of shape (samples, ...)."""
        record = _Record()
        named = [(name, child) for name, child in module.named_modules() if name]
        handles = [child.register_forward_hook(functools.partial(record.note, name)) for name, child in named]
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                predicted = tree_leaves(call(module, example))
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()
        # A map that is among the module's own outputs is none: what a model predicts is compared by other losses.
        inner = [each for each in record.order if not any(each[1] is leaf for leaf in predicted)]
        last = {name: number for number, (name, _, _) in enumerate(inner)}
        kept = [each for number, each in enumerate(inner) if last[each[0]] == number]
        return ModuleLayers(
            shapes={name: tuple(output.shape) for name, output, _ in kept},
            head=record.heads[-1] if record.heads else None,
            layouts={name: layout for name, _, layout in kept},
        )

    def maps(self) -> dict[tuple[int, int], str]:
        """Return the last module whose output is, or folds into, a map of each (height, width) of more than one place."""
        sizes = [(name, map_size(shape, self.layouts[name])) for name, shape in self.shapes.items()]
        return {size: name for name, size in sizes if math.prod(size) > 1}

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


def embeddings(module: nn.Module, inputs: ModelInputs, name: str, chunk: int = 256) -> npt.NDArray[Any]:
    """Return the inputs of the last linear layer, (samples, width).

    Raises:
        UserError: the module has no such layer.
    """
    module.eval()
    head = ModuleLayers.of(module, rows(inputs, slice(2))).head
    if head is None:
        raise UserError(f"{name} has no embedding: no linear layer that reads vectors (samples, width)")
    found = []
    with FeatureHooks(module, [], head) as hooks, torch.no_grad():
        for start in range(0, count(inputs), chunk):
            call(module, rows(inputs, slice(start, start + chunk)))
            found.append(hooks.embedding().float().numpy())
    return np.concatenate(found)


def map_size(shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    """Return height and width of what ``as_map`` makes of an output.

    Example:
        >>> map_size((2, 197, 192), "tokens"), map_size((2, 64, 100), "map"), map_size((2, 8, 4, 6, 7), "map")
        ((14, 14), (1, 100), (24, 7))
    """
    if layout == "map":
        return math.prod(shape[2:-1]), shape[-1]
    side = math.isqrt(shape[1])
    return (side, side) if side * side in (shape[1], shape[1] - 1) else (1, shape[1])


def as_map(output: Tensor, layout: str) -> Tensor:
    """Return an output as a map, (samples, channels, height, width).

    Maps of one dimension get height 1, those of three have depth and height as one. Tokens (samples, tokens, width) fold
    into a square, a class token aside, or else into a line.
    """
    height, width = map_size(tuple(output.shape), layout)
    if layout == "map":
        return output.reshape(*output.shape[:2], height, width) if output.dim() != 4 else output
    patches = output[:, output.shape[1] - height * width :]
    return patches.transpose(1, 2).reshape(output.shape[0], output.shape[2], height, width)


def as_tokens(output: Tensor, layout: str) -> Tensor:
    """Flatten maps into tokens, one a place: (samples, places, channels); tokens stay."""
    return output.flatten(2).transpose(1, 2) if layout == "map" else output


def _is_block(name: str) -> bool:
    *above, last = name.split(".")
    return last.isdigit() and not any(part.isdigit() for part in above)


MAP_LAYERS = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm", "Pool", "Upsample", "Pad")
"""Words in the names of layers that read and give maps, channels second."""
TOKEN_LAYERS = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
"""Layers that read and give sequences, channels last."""


@final
class _Record:
    """Outputs of modules in the order of calls, each with the layout of the last layer that has one."""

    def __init__(self) -> None:
        self.order: list[tuple[str, Tensor, str]] = []
        self.heads: list[str] = []
        self._layout = "tokens"

    def note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note a call of a module; a forward hook."""
        tensor = first_tensor(output)
        if tensor is not None and tensor.dim() in (3, 4, 5):
            self._layout = _layout(module, tensor) or self._layout
            self.order.append((name, tensor, self._layout if tensor.dim() == 3 else "map"))
        if isinstance(module, nn.Linear) and inputs and inputs[0].dim() == 2:
            self.heads.append(name)


def _layout(module: nn.Module, output: Tensor) -> str | None:
    """Return the layout that a layer gives; None for modules that take what comes, and for containers."""
    if output.dim() != 3:
        return None
    if isinstance(module, TOKEN_LAYERS):
        return "tokens"
    return "map" if not any(module.children()) and any(word in type(module).__name__ for word in MAP_LAYERS) else None
