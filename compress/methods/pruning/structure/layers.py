"""Operators that weigh: convolutions, matrices, attention, embeddings; and norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compress.methods.pruning.structure.elementwise import CODE, join_beside, join_own
from compress.methods.pruning.structure.facts import Grouped
from compress.methods.pruning.structure.ran import Ran
from compress.methods.pruning.structure.units import same_shape

NO_CHANNELS = "what is read there are no channels of a layer"
ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
)
MATRICES = ("mm", "addmm", "bmm", "baddbmm", "linear")


def normalise(call: Ran) -> None:
    """A norm passes its input on; what it holds for each channel goes with it."""
    follower, given = call.follower, call.tensors[0]
    ids = follower.core(given)
    layer = "layer_norm" in call.name or "rms_norm" in call.name
    for own in call.tensors[1:]:
        if own.dim() == 1 and not layer and given.dim() > 1:
            shape = [1, -1, *[1] * (given.dim() - 2)]
            join_own(call, ids, given, follower.ids(own).reshape(shape), shape)
        elif layer:
            shape = [*[1] * (given.dim() - own.dim()), *own.shape]
            join_own(call, ids, given, follower.ids(own).reshape(shape), shape)
    if "group_norm" in call.name:
        count = next(a for a in reversed(call.args) if isinstance(a, int) and not isinstance(a, bool))
        follower.parts.append((ids.movedim(1, 0).reshape(ids.shape[1], -1)[:, 0], count))
    follower.set(call.results[0], ids)
    if layer and len(call.tensors) == 1:
        follower.note_sizes(call.results[0])


def _convolve(call: Ran) -> None:
    given, weight = call.tensors[0], call.tensors[1]
    follower, units, groups = call.follower, call.follower.units, int(call.args[8])
    transposed = bool(call.args[6])
    into = units.join_along(follower.core(given), [0, *range(2, given.dim())]).reshape(-1).expand(given.shape[1])
    if follower.view(weight) is None:
        units.keep(into, f"{follower.path or 'a convolution'} has weights that are computed")
        out: Tensor = torch.zeros(1, dtype=torch.int64).expand(call.results[0].shape[1])
    elif transposed and groups > 1:
        units.keep(into, f"{follower.path} is a grouped transposed convolution")
        out = torch.zeros(1, dtype=torch.int64).expand(call.results[0].shape[1])
    else:
        found = follower.axis(weight, 1 if transposed else 0, out=True)
        assert found is not None
        out = found
        if groups == 1:
            _read(call, into, follower.axis(weight, 0 if transposed else 1))
        else:
            _grouped(call, into, out, weight, groups)
    bias = call.args[2]
    if isinstance(bias, Tensor):
        units.join(follower.ids(bias), out)
    follower.set(call.results[0], out.reshape([1, -1, *[1] * (given.dim() - 2)]))


def _read(call: Ran, into: Tensor, axis: Tensor | None) -> None:
    """Join what a layer reads with its weights; what is not of any channel cannot be left out."""
    if axis is None:
        return
    call.follower.units.join(into, axis)
    call.follower.units.keep(axis[into == 0], NO_CHANNELS)


def _grouped(call: Ran, into: Tensor, out: Tensor, weight: Tensor, groups: int) -> None:
    """Depthwise: input and output of a group go together. Else whole groups, or the same inputs of each group."""
    follower, units = call.follower, call.follower.units
    inputs, outputs = into.reshape(groups, -1), out.reshape(groups, -1)
    units.keep(outputs[(inputs == 0).any(1)], NO_CHANNELS)
    if inputs.shape[1] == 1:
        units.join(inputs, outputs)
        follower.depthwise[follower.path] = inputs[:, 0]
        return
    axis = follower.axis(weight, 1)
    assert axis is not None
    follower.grouped.append(Grouped(path=follower.path, inputs=inputs, outputs=outputs, axis=axis))


def _multiply(call: Ran) -> None:
    """Matrices: addmm, mm, bmm, baddbmm, linear."""
    follower = call.follower
    ours, theirs = call.tensors[-2:] if call.name in ("addmm", "baddbmm", "addbmm") else call.tensors[:2]
    bias = call.tensors[0] if call.name in ("addmm", "baddbmm") else None
    if call.name == "linear":
        bias = call.tensors[2] if len(call.tensors) > 2 else None
        ids = _weigh(call, follower.core(ours), theirs, into=-1, out=-2)
    elif follower.view(theirs) is not None:
        ids = _weigh(call, follower.core(ours), theirs, into=-2, out=-1)
    elif follower.view(ours) is not None:
        ids = _weigh(call, follower.core(theirs).transpose(-1, -2), ours, into=-1, out=-2).transpose(-1, -2)
    else:
        ids = _contract(call, follower.core(ours), follower.core(theirs))
    if bias is not None:
        own = follower.core(bias)
        own = own.reshape([*[1] * (ids.dim() - own.dim()), *own.shape])
        ids = join_beside(call, ids, call.results[0].shape, own, [*[1] * (ids.dim() - bias.dim()), *bias.shape])
    follower.set(call.results[0], ids)


def _weigh(call: Ran, ids: Tensor, weight: Tensor, into: int, out: int) -> Tensor:
    follower = call.follower
    into, out = into % weight.dim(), out % weight.dim()
    view = follower.view(weight)
    assert view is not None
    rows = follower.units.join_along(ids, range(ids.dim() - 1)).reshape(-1).expand(weight.shape[into])
    if weight.dim() > 2 and any(not _alike(place, 0) for place in view[1]):
        follower.units.keep(rows, f"{follower.path or 'the model'} weighs them with several matrices at once")
        return torch.zeros([1] * ids.dim(), dtype=torch.int64)
    made = follower.axis(weight, out, out=True)
    assert made is not None
    _read(call, rows, follower.axis(weight, into))
    return made.reshape([*[1] * (ids.dim() - 1), -1])


def _alike(place: Tensor, axis: int) -> bool:
    return bool((place == place.narrow(axis, 0, 1)).all())


def _contract(call: Ran, ours: Tensor, theirs: Tensor) -> Tensor:
    """Multiply what the model computed itself: what is summed over goes together, and so does all that meets in it."""
    units = call.follower.units
    if bool((ours == 0).any()) and theirs.shape[-2] > 1:
        units.keep(theirs, CODE)
    if bool((theirs == 0).any()) and ours.shape[-1] > 1:
        units.keep(ours, CODE)
    rows, columns = units.join_along(ours, [ours.dim() - 1]), units.join_along(theirs, [theirs.dim() - 2])
    rows, columns = same_shape(rows, columns)
    units.join(rows, columns)
    return torch.where(rows != 0, rows, columns)


def _attend(call: Ran) -> None:
    """Scaled dot product attention: heads of (samples, heads, tokens, channels)."""
    units, follower = call.follower.units, call.follower
    heads = [units.join_along(follower.core(t), [t.dim() - 2, t.dim() - 1]) for t in call.tensors[:3]]
    units.join(heads[0], heads[1])
    units.join(heads[0], heads[2])
    ids = units.core(heads[0])
    mask = next((t for t in call.tensors[3:] if t.dim() >= 2), None)
    if mask is not None:
        own = follower.core(mask)
        own, sizes = (
            own.reshape([*[1] * (ids.dim() - own.dim()), *own.shape]),
            [*[1] * (ids.dim() - mask.dim()), *mask.shape],
        )
        shape = (*call.tensors[0].shape[:-1], call.tensors[1].shape[-2])
        join_beside(call, ids, shape, own, sizes)
    follower.set(call.results[0], ids)


def _embed(call: Ran) -> None:
    found = call.follower.axis(call.tensors[0], 1, out=True)
    ids = torch.zeros(1, dtype=torch.int64) if found is None else found
    call.follower.set(call.results[0], ids.reshape([*[1] * (call.results[0].dim() - 1), -1]))


LAYERS: dict[str, Callable[[Ran], None]] = {
    "convolution": _convolve,
    "_convolution": _convolve,
    **dict.fromkeys(MATRICES, _multiply),
    **dict.fromkeys(ATTENTION, _attend),
    "embedding": _embed,
}
