"""Operators that move elements about: what they do to a tensor they do to its array of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from compress.methods.pruning.structure.ran import Ran

VIEWS = ("view", "_unsafe_view", "_reshape_alias", "view_copy", "as_strided")
TURNS = ("reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "detach", "alias", "slice", "select")
SPLITS = ("split", "split_with_sizes", "chunk", "unbind", "unsafe_split")
SHOWS = frozenset((*VIEWS, *TURNS, *SPLITS))
"""Moves after which a weight is still one."""
SIZED = frozenset((*VIEWS, "reshape", "expand", "slice", "split_with_sizes", "repeat", "narrow", "constant_pad_nd"))
"""Moves that may be given sizes as numbers."""
PICKS = ("index", "index_select", "gather", "take_along_dim")
"""Moves by a tensor of places."""
KINDS = ("dtype", "memory_format", "layout", "device", "pin_memory")
SHUFFLES = ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "roll", "flip", "rot90")
COPIES = ("cat", "stack", "clone", "contiguous", "_to_copy", "lift_fresh", "select_copy", "repeat_interleave", "tile")
OTHERS = ("unfold", "diagonal", "tril", "triu", "movedim", "swapaxes")
MOVES = frozenset((*SHOWS, *SIZED, *PICKS, *SHUFFLES, *COPIES, *OTHERS))


def move(call: Ran) -> None:
    follower = call.follower
    if call.name in SHOWS and _show(call):
        return
    if call.name in ("cat", "stack"):
        _join_tensors(call)
        return
    if call.name == "constant_pad_nd":
        _pad(call)
        return
    moving = call.tensors[:1] if call.name in PICKS else call.tensors
    if call.name in ("repeat_interleave",) and call.tensors[0].dtype == torch.int64 and len(call.tensors) == 1:
        follower.set(call.results[0], torch.zeros([1] * call.results[0].dim(), dtype=torch.int64))
        return
    arrays = {id(t): follower.ids(t) for t in moving}
    if call.before is not None:
        arrays[id(call.tensors[0])] = call.before
    parts = [leaf for leaf in tree_leaves(_again(call, arrays)) if isinstance(leaf, Tensor)]
    for result, ids in zip(call.results, parts, strict=True):
        follower.set_moved(result, ids)
    if call.name in ("split", "chunk", "unsafe_split"):
        _pair(call)
    if call.name in SIZED:
        for result in call.results:
            follower.note_sizes(result)


def _again(call: Ran, arrays: Mapping[int, Tensor]) -> Any:
    """Do to arrays of units, by the identity of the tensors, what was done to these."""
    args, kwargs = tree_map(
        lambda leaf: arrays.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, (call.args, dict(call.kwargs))
    )
    kwargs = {name: value for name, value in kwargs.items() if name not in KINDS}
    if call.name in ("_to_copy", "clone"):
        return args[0].clone()
    if call.name in VIEWS:
        return args[0].reshape(call.results[0].shape)
    return call.func(*args, **kwargs)


def _show(call: Ran) -> bool:
    """Follow a parameter that is turned before it weighs: it is known by the place of each element."""
    view = call.follower.view(call.tensors[0])
    if view is None or len(call.tensors) > 1:
        return False
    name, places = view
    if len(places) < 2:
        return False
    moved = [tree_leaves(_again(call, {id(call.tensors[0]): place})) for place in places]
    for result, parts in zip(call.results, zip(*moved, strict=True), strict=True):
        call.follower.set_view(result, name, parts)
    return True


def _join_tensors(call: Ran) -> None:
    """Concatenate, along axes where none varies at one place only."""
    arrays = [call.follower.ids(t) for t in call.args[0]]
    axis = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    if call.name == "stack":
        ids = torch.stack(arrays, axis)
    else:
        arrays = [a for t, a in zip(call.args[0], arrays, strict=True) if t.numel()]
        axis %= arrays[0].dim()
        cores = [call.follower.units.core(a) for a in arrays]
        sizes = [max(core.shape[d] for core in cores) for d in range(arrays[0].dim())]
        ids = torch.cat(
            [
                core.expand([a.shape[d] if d == axis else sizes[d] for d in range(a.dim())])
                for a, core in zip(arrays, cores, strict=True)
            ],
            axis,
        )
    call.follower.set(call.results[0], ids)


def _pad(call: Ran) -> None:
    """Pad: what is added beside a channel's elements is of the channel, what is added beside channels of none."""
    core, pads = call.follower.core(call.tensors[0]), list(call.args[1])
    for place in range(0, len(pads), 2):
        if core.shape[-1 - place // 2] == 1:
            pads[place : place + 2] = [0, 0]
    call.follower.set(call.results[0], torch.constant_pad_nd(core, pads, 0))
    call.follower.note_sizes(call.results[0])


def _pair(call: Ran) -> None:
    """Parts of equal size, as many as there are, stay of equal size: what has the same place in each goes together."""
    axis = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % call.tensors[0].dim()
    cores = [call.follower.units.core(call.follower.ids(result)) for result in call.results]
    if len({result.shape[axis] for result in call.results}) == 1 and max(core.shape[axis] for core in cores) > 1:
        shape = [max(core.shape[d] for core in cores) for d in range(cores[0].dim())]
        together = torch.stack([core.expand(shape) for core in cores])
        call.follower.wide.append(together)
