"""The proof that a cut takes the channels that it names, and changes nothing else.

The whole model with the dropped channels silenced (zero weights and shifts on every side) must compute what the cut
model computes, in float64. A norm over channels (LayerNorm, GroupNorm, RMSNorm, or a class of a library's own) sees how
many there are, so in the silenced model each gives what it is defined to give over the kept channels alone: its
statistics are theirs. That is what the cut norm computes of them, if the norm treats all its channels alike: permuted
inputs and weights must give permuted outputs. GroupNorm does so only within a group, so each group must keep equally
many; LocalResponseNorm reads neighbours, which a cut changes. What cannot be shown is a reason to leave channels whole.

Weights that are all alike, or next to nothing, as fresh scales and shifts are, would hide a wrong channel: both models
have others in their place.
"""

from __future__ import annotations

import copy
import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from compress.methods.pruning.operations import Narrow
from compress.models.inputs import ModelInputs, call, doubled
from compress.models.layers import flat_tensors
from profiles.errors import first_line

TOLERANCE, FAINT = 1e-6, 1e-2
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
MIXING = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU, nn.MultiheadAttention)
ACTIVATIONS = tuple(
    kind
    for kind in (getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__)
    if not issubclass(kind, MIXING)
)
APART = (_ConvNd, nn.Linear, _BatchNorm, nn.Embedding, nn.Dropout, nn.Identity, *ACTIVATIONS)
"""Layers in which a silenced channel is none: what they give of the others does not depend on it."""
LOST_OUTPUT = "an output of the model would lose them"


@final
@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a cut would change more than the channels it takes, and the module in which that shows; empty if in none."""

    reason: str
    path: str = ""


def find_unfaithfulness(module: nn.Module, operation: Narrow, example: ModelInputs) -> str:
    """Find the reason why a cut would change more than the channels it takes; empty when it does not.

    Args:
        module: the whole model; it is left as it is.
        example: a batch of inputs.
    """
    fault = Checker(module, example).find_fault(operation)
    return "" if fault is None else fault.reason


@final
class Checker:
    """Checks of cuts of one model: its copy in float64 is made once, and what a cut leaves alone is shared with it."""

    def __init__(self, module: nn.Module, example: ModelInputs) -> None:
        self._whole = _copy_sharing(module, _doubles(module)).eval()
        _vary(self._whole)
        self._inputs = doubled(example)

    def find_fault(self, operation: Narrow) -> Fault | None:
        """Find out why a cut would change more than the channels it takes; None when it does not."""
        small = operation.apply(_copy_sharing(self._whole, {}))
        comparison = _Comparison(small, self._whole, operation)
        try:
            actual = comparison.of_cut(self._inputs)
        except Exception as error:
            reason = f"the model does not run without some of them ({type(error).__name__}: {first_line(error)})"
            return Fault(reason=reason, path=_raising(small, error))
        with _silenced(self._whole, operation):
            expected = comparison.of_silenced(self._inputs)
        if [tuple(t.shape) for t in actual] != [tuple(t.shape) for t in expected]:
            return Fault(reason=LOST_OUTPUT)
        if comparison.reason:
            return Fault(reason=comparison.reason, path=comparison.path)
        if all(_near(ours, theirs) for ours, theirs in zip(actual, expected, strict=True)):
            return None
        where = f"in what {comparison.path} reads" if comparison.path else "at the outputs"
        return Fault(reason=f"the channels that stay would give something else, first seen {where}", path=comparison.path)


@final
class _Comparison:
    """Comparison of a cut model with the silenced one, layer by layer."""

    def __init__(self, small: nn.Module, whole: nn.Module, operation: Narrow) -> None:
        self._small, self._whole, self._operation = small, whole, operation
        self._given: dict[tuple[str, int], Tensor] = {}
        self._calls: Counter[str] = Counter()
        self.reason = ""
        self.path = ""

    def of_cut(self, inputs: ModelInputs) -> list[Tensor]:
        """Run the cut model and return its outputs."""
        return self._run(self._small, inputs, self._note)

    def of_silenced(self, inputs: ModelInputs) -> list[Tensor]:
        """Run the silenced model, norms over the kept channels, and return its outputs."""
        return self._run(self._whole, inputs, self._follow)

    def _run(self, module: nn.Module, inputs: ModelInputs, hook: Callable[[str, Any, Any], Tensor | None]) -> list[Tensor]:
        self._calls.clear()
        layers = [(p, m) for p, m in module.named_modules() if isinstance(m, NORMS) or not any(m.children())]
        handles = [
            layer.register_forward_hook(lambda _, given, output, path=path: hook(path, given, output))
            for path, layer in layers
        ]
        try:
            with torch.no_grad():
                return flat_tensors(call(module, inputs))
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, path: str, given: tuple[Any, ...], output: Any) -> None:
        if _one_to_one(given, output):
            self._given[path, self._calls[path]] = given[0].clone()
        self._calls[path] += 1

    def _follow(self, path: str, given: tuple[Any, ...], output: Any) -> Tensor | None:
        call = (path, self._calls[path])
        self._calls[path] += 1
        if call not in self._given or not _one_to_one(given, output):
            return None
        inputs = self._given[call]
        dimensions = [d for d, (a, b) in enumerate(zip(given[0].shape, inputs.shape, strict=False)) if a != b]
        if given[0].dim() != inputs.dim() or len(dimensions) > 1:
            return None
        if not dimensions:
            self._see(path, _near(inputs, given[0]))
            return None
        layer, dimension = self._small.get_submodule(path), dimensions[0]
        if isinstance(layer, APART):
            return None
        stated = _stated(self._operation, path)
        if any(indices != stated[0] for indices in stated):
            return None
        kept = stated[0] if stated else _found(given[0], inputs, dimension)
        self._see(path, kept is not None)
        if kept is None or len(kept) != inputs.shape[dimension]:
            return None
        return self._norm(path, layer, given[0], output, dimension, kept)

    def _norm(
        self, path: str, layer: nn.Module, given: Tensor, output: Tensor, dimension: int, kept: list[int]
    ) -> Tensor | None:
        """Compute a layer's output over the kept channels alone, and zeros; None where its own output is that."""
        index = torch.tensor(kept)
        inputs = given.index_select(dimension, index)
        self._see(path, _near(self._given[path, self._calls[path] - 1], inputs))
        alone = layer(inputs)
        if _near(alone, output.index_select(dimension, index)):
            return None
        if isinstance(layer, nn.GroupNorm):
            reason = _uneven(path, layer.num_groups, kept, output.shape[dimension])
        else:
            reason = _unlike(path, layer, self._operation, inputs, alone, dimension)
        if reason and not self.reason:
            self.reason, self.path = reason, path
        return torch.zeros_like(output).index_copy(dimension, index, alone)

    def _see(self, path: str, same: bool) -> None:
        if not same and not self.path:
            self.path = path


def _one_to_one(given: tuple[Any, ...], output: Any) -> bool:
    """Return whether a layer maps a tensor to another of the same shape."""
    if not given or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
        return False
    return given[0].shape == output.shape and given[0].data_ptr() != output.data_ptr()


def _stated(operation: Narrow, path: str) -> list[list[int]]:
    """List the channels that each of a layer's own tensors keeps."""
    own = [kept for name, kept in operation.tensors.items() if name.rpartition(".")[0] == path]
    return [indices for kept in own for indices in kept.values()]


def _found(whole: Tensor, small: Tensor, dimension: int) -> list[int] | None:
    """Find the channels of ``whole`` that ``small`` holds, in order; None when it holds others."""
    kept: list[int] = []
    channels = iter(enumerate(whole.unbind(dimension)))
    for ours in small.unbind(dimension):
        place = next((place for place, theirs in channels if _near(ours, theirs)), None)
        if place is None:
            return None
        kept.append(place)
    return kept


def _uneven(path: str, groups: int, kept: list[int], total: int) -> str:
    """Find the reason why a cut group norm's groups would not be those of the whole; empty when they are."""
    if set(Counter(channel * groups // total for channel in kept).values()) == {len(kept) // groups}:
        return ""
    return f"{path} normalises {groups} groups of channels, and they would not keep equally many"


def _unlike(path: str, layer: nn.Module, operation: Narrow, inputs: Tensor, outputs: Tensor, dimension: int) -> str:
    """Find the reason why a cut layer differs from its definition over the kept channels; empty when it does not."""
    if isinstance(layer, nn.LocalResponseNorm):
        return f"{path} divides each channel by its neighbours, and they would be others"
    order = torch.randperm(inputs.shape[dimension], generator=torch.Generator().manual_seed(0))
    permuted = _permuted(layer, operation, path, order)
    if _near(permuted(inputs.index_select(dimension, order)), outputs.index_select(dimension, order)):
        return ""
    return f"{path} reads several channels at once, and not all alike"


def _permuted(layer: nn.Module, operation: Narrow, path: str, order: Tensor) -> nn.Module:
    """Copy a layer with its own channels in another order."""
    copied = copy.deepcopy(layer)
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        for dimension in operation.tensors.get(f"{path}.{name}", {}):
            tensor.data = tensor.data.index_select(int(dimension), order)
    return copied


def _near(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return ours.numel() == 0 or bool((ours - theirs).abs().max() <= TOLERANCE * (1 + theirs.abs().max()))


def _vary(module: nn.Module) -> None:
    """Give weights and batch norm statistics that are all alike, or faint, other values, in place."""
    drawn = torch.Generator().manual_seed(0)
    statistics = [(n, b) for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))]
    for name, tensor in [*module.named_parameters(), *statistics]:
        values = tensor.data
        if values.numel() > 1 and (values.max() == values.min() or values.abs().max() < FAINT):
            spread = 0.5 / math.sqrt(max(1, values[0].numel()))
            least = 0 if name.endswith("running_var") else -1  # a variance stays one
            values += spread * (least + (1 - least) * torch.rand(values.shape, generator=drawn, dtype=values.dtype))


@contextmanager
def _silenced(module: nn.Module, operation: Narrow) -> Iterator[None]:
    """Set the channels of a model that ``operation`` drops to zero within the block."""
    state: Mapping[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {path: state[path].data for path in operation.tensors}
    try:
        for path, kept in operation.tensors.items():
            values = before[path].clone()
            for dimension, indices in kept.items():
                dropped = sorted(set(range(values.shape[int(dimension)])) - set(indices))
                neutral = 1.0 if path.endswith("running_var") else 0.0
                values.index_fill_(int(dimension), torch.tensor(dropped, dtype=torch.long), neutral)
            state[path].data = values
        yield
    finally:
        for path, values in before.items():
            state[path].data = values


def _doubles(module: nn.Module) -> dict[int, Tensor]:
    """Return copies in float64 of a model's parameters and buffers, by their ids; of whole numbers as they are."""
    doubles: dict[int, Tensor] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        values = tensor.detach().clone()
        values = values.double() if values.is_floating_point() else values
        doubles[id(tensor)] = nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
    return doubles


def _copy_sharing(module: nn.Module, others: Mapping[int, Tensor]) -> nn.Module:
    """Copy a model that shares its parameters and buffers, but for those that have ``others`` in their place."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): others.get(id(tensor), tensor) for tensor in tensors})


def _raising(module: nn.Module, error: Exception) -> str:
    """Return the path of the innermost module in whose code an error was raised."""
    paths = {id(each): path for path, each in module.named_modules()}
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((paths[id(owner)] for owner in reversed(owners) if id(owner) in paths), "")
