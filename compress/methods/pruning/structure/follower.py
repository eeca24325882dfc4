"""One run of a model in which the units of every tensor are followed, operator by operator.

What moves elements about (views, slices, concatenations, rolls, shuffles) is done to the array of units as it is to the
tensor; what computes is told by a rule of ``rules.py`` which units it joins. So there is no graph to be searched, and the
time is that of one run. Weights of convolutions, linear layers and embeddings have units along each axis; all other
parameters and buffers have one an element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.methods.pruning.structure import rules
from compress.methods.pruning.structure.facts import Beside, Call, Grouped, Reduced, Shaped, Weight
from compress.methods.pruning.structure.ran import Ran
from compress.methods.pruning.structure.units import Units, varying
from compress.models.inputs import ModelInputs, count, tensors
from compress.models.inputs import call as call_module
from compress.models.layers import flat_tensors

OUTPUT = "an output of the model would lose them"
KERNEL_AXES = 2
"""A weight of a convolution has units along its first axes, so many."""


@final
class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The units of all tensors of a running model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.units = Units()
        self.weights: dict[str, Weight] = {}
        self.elements: dict[str, Tensor] = {}
        self.wide: list[Tensor] = []
        self.beside: list[Beside] = []
        self.reduced: list[Reduced] = []
        self.shaped: list[Shaped] = []
        self.parts: list[tuple[Tensor, int]] = []
        self.grouped: list[Grouped] = []
        self.depthwise: dict[str, Tensor] = {}
        self.calls: list[Call] = []
        self.outputs: set[int] = set()
        self.samples = 1
        self._known: dict[Any, Tensor] = {}
        self._views: dict[Any, tuple[str, tuple[Tensor, ...]]] = {}
        self._makers: dict[Any, int] = {}
        self._alive: list[Tensor] = []
        self._paths: list[str] = [""]
        self._named: dict[Any, str] = {}
        self._tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in self._tensors.items():
            self._named[_key(tensor)] = name

    def run(self, module: nn.Module, inputs: ModelInputs) -> None:
        """Run the module, in evaluation mode; its outputs must stay."""

        def left(*_: Any) -> None:
            self._paths.pop()

        handles = [
            handle
            for path, layer in module.named_modules()
            for handle in (
                layer.register_forward_pre_hook(lambda *_, path=path: self._paths.append(path)),
                layer.register_forward_hook(left, always_call=True),
            )
        ]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._alive += tensors(inputs)
        self.samples = count(inputs)
        try:
            with torch.no_grad(), self:
                outputs = flat_tensors(call_module(module, inputs))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for handle in handles:
                handle.remove()
        for output in outputs:
            self.units.keep(self.core(output), OUTPUT)
            self.outputs |= {self._makers[key] for key in [_key(output)] if key in self._makers}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        before = self.ids(args[0]) if name.endswith("_") and isinstance(args[0], Tensor) else None
        made = func(*args, **kwargs)
        call = Ran(self, func, name.rstrip("_"), args, kwargs, made, before)
        reads = [self._makers[key] for t in call.tensors for key in [_key(t)] if key in self._makers]
        self.calls.append(Call(name=call.name, path=self.path, reads=tuple(reads), shape=_shape(made)))
        rules.follow(call)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._makers[_key(tensor)] = len(self.calls) - 1
                self._alive.append(tensor)
        return made

    @property
    def path(self) -> str:
        """The path of the module that is running."""
        return self._paths[-1]

    def set(self, tensor: Tensor, ids: Tensor) -> None:
        """Give a tensor its units, an array whose axes are of its size or 1."""
        core = self.units.core(ids)
        if len(varying(core)) > 1:
            self.wide.append(core)
        self._known[_key(tensor)] = core.expand(tensor.shape)

    def set_empty(self, tensor: Tensor) -> None:
        """Give a tensor that nothing was written to yet no units, in an array that what is written to it can change."""
        self._known[_key(tensor)] = torch.zeros(tensor.shape, dtype=torch.int64)

    def set_moved(self, tensor: Tensor, ids: Tensor) -> None:
        """Give a tensor units that were moved as it was; memory that is shared stays so where it was not written yet."""
        if ids.numel() and not _repeats(ids) and not bool(ids.any()):
            self._known[_key(tensor)] = ids
        else:
            self.set(tensor, ids)

    def note_sizes(self, tensor: Tensor) -> None:
        """Remember what an operator made that may have been given its sizes as numbers, if units vary in it."""
        core = self.core(tensor)
        if varying(core):
            self.shaped.append(Shaped(path=self.path, ids=core))

    def reduce(self, ids: Tensor, axes: Sequence[int]) -> Tensor:
        """Make units of what is reduced along axes on which it is of several, as the norm of each head is."""
        made = self.units.new(*(1 if axis in axes else size for axis, size in enumerate(ids.shape)))
        self.reduced.append(Reduced(ids=ids, axes=tuple(axes), made=made))
        return made

    def put_beside(self, ours: Tensor, theirs: Tensor, sizes: tuple[int, ...], reason: str) -> None:
        """Remember two operands of an operator, which are joined when it is known along which axis each varies."""
        if varying(ours):
            self.beside.append(Beside(ours=ours, theirs=theirs, sizes=sizes, reason=reason))

    def write(self, tensor: Tensor, ids: Tensor) -> None:
        """Change a tensor's units in place, and so those of what it is a view of."""
        known, given = self._known.get(_key(tensor)), ids.expand(tensor.shape)
        if known is not None and not _repeats(known):
            known.copy_(given)
        elif known is not None and tensor._base is not None:
            self.units.join(known, given)
            self.units.keep(given[known == 0], f"{self.path or 'the model'} writes them into a tensor")
        self.set(tensor, ids)

    def ids(self, tensor: Tensor) -> Tensor:
        """Return the units of a tensor, in its shape; none for what the model's code makes."""
        key = _key(tensor)
        if key in self._known:
            return self._known[key]
        view = self.view(tensor)
        if view is not None:
            return self._of_elements(*view)
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape)

    def core(self, tensor: Tensor) -> Tensor:
        """Return the units of a tensor, of size 1 along axes where they are alike."""
        return self.units.core(self.ids(tensor))

    def view(self, tensor: Tensor) -> tuple[str, tuple[Tensor, ...]] | None:
        """Return the parameter or buffer that a tensor shows, with the place along each of its axes of every element."""
        key = _key(tensor)
        if key in self._views:
            return self._views[key]
        name = self._named.get(key)
        if name is None:
            return None
        shape = tensor.shape
        places = tuple(
            torch.arange(size).reshape([-1 if d == axis else 1 for d in range(len(shape))]).expand(shape)
            for axis, size in enumerate(shape)
        )
        return name, places

    def set_view(self, tensor: Tensor, name: str, places: Sequence[Tensor]) -> None:
        """Say that a tensor shows a parameter."""
        self._views[_key(tensor)] = (name, tuple(places))

    def axis(self, tensor: Tensor, axis: int, *, out: bool = False) -> Tensor | None:
        """Return the units along one axis of a tensor that weighs; None when it is no parameter."""
        view = self.view(tensor)
        if view is None:
            return None
        name, places = view
        whole = self._tensors[name].shape
        if name not in self.weights:
            axes = [self.units.new(size) if size > 1 and d < KERNEL_AXES else None for d, size in enumerate(whole)]
            self.weights[name] = Weight(axes=axes)
            if name in self.elements:
                self._two_ways(name)
        weight = self.weights[name]
        there = [d for d, place in enumerate(places) if _varies(place, axis)]
        along: list[Tensor] = []
        for d in there:
            ids = weight.axes[d]
            if ids is not None:
                (weight.out if out else weight.into).add(d)
                place = places[d].movedim(axis, 0).reshape(tensor.shape[axis], -1)[:, 0]
                along.append(ids[place])
        if len(along) == 1:
            return along[0]
        for ids in along:
            self.units.keep(ids, f"{name.rpartition('.')[0] or name} reads them in an order of its own")
        return torch.zeros(tensor.shape[axis], dtype=torch.int64)

    def _of_elements(self, name: str, places: Sequence[Tensor]) -> Tensor:
        if name not in self.elements:
            self.elements[name] = self.units.new(*self._tensors[name].shape)
            if name in self.weights:
                self._two_ways(name)
        ids = self.elements[name]
        return ids[tuple(places)] if places else ids

    def _two_ways(self, name: str) -> None:
        reason = f"{name} is more than the weight of a layer"
        for ids in [*self.weights[name].axes, self.elements[name]]:
            if ids is not None:
                self.units.keep(ids, reason)


def _repeats(ids: Tensor) -> bool:
    """Return whether several elements of an array are one in memory."""
    return any(size > 1 and stride == 0 for size, stride in zip(ids.shape, ids.stride(), strict=True))


def _varies(place: Tensor, axis: int) -> bool:
    """Return whether an array differs along an axis; one that repeats in memory is read once."""
    if place.shape[axis] < 2 or place.stride(axis) == 0:
        return False
    for other, (size, stride) in enumerate(zip(place.shape, place.stride(), strict=True)):
        if size > 1 and stride == 0:
            place = place.narrow(other, 0, 1)
    return not bool((place == place.narrow(axis, 0, 1)).all())


def _shape(made: Any) -> tuple[int, ...]:
    first = next((leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)), None)
    return () if first is None else tuple(first.shape)


def _key(tensor: Tensor) -> Any:
    """Tell tensors apart by the memory that they show."""
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
