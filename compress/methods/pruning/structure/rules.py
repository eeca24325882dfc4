"""What each operator does to units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from compress.methods.pruning.structure.elementwise import elementwise, unknown
from compress.methods.pruning.structure.layers import LAYERS, normalise
from compress.methods.pruning.structure.moving import MOVES, move
from compress.methods.pruning.structure.ran import Ran
from compress.methods.pruning.structure.units import varying

NORMS = ("linalg_vector_norm", "norm", "var", "std", "var_mean", "std_mean")
REDUCTIONS = frozenset(
    (*NORMS, "mean", "sum", "amax", "amin", "logsumexp", "argmax", "argmin", "max", "min", "prod", "any", "all", "median")
)
SPATIAL = ("upsample", "pool", "grid_sampler", "reflection_pad", "replication_pad", "_adaptive", "im2col", "fft")
NEW = ("zeros", "ones", "full", "empty", "empty_strided")
EMPTY = frozenset((*NEW, *(f"new_{name}" for name in NEW)))


def follow(call: Ran) -> None:
    """Give what an operator made its units."""
    if not call.results or (not call.tensors and call.name not in EMPTY):
        return
    if all(result.numel() == 0 for result in call.results):
        return
    if call.name in RULES:
        RULES[call.name](call)
    elif call.name in EMPTY:
        for result in call.results:
            call.follower.set_empty(result)
    elif "norm" in call.name and call.name not in REDUCTIONS:
        normalise(call)
    elif call.name in REDUCTIONS and (call.name not in ("max", "min") or len(call.results) == 2 or len(call.tensors) == 1):
        _reduce(call)
    elif any(kind in call.name for kind in SPATIAL):
        _spatial(call)
    elif all(tuple(result.shape) == _broadcast(call.tensors) for result in call.results):
        elementwise(call)
    else:
        unknown(call)


def _broadcast(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*(tuple(tensor.shape) for tensor in tensors))
    except ValueError:
        return None


def _reduce(call: Ran) -> None:
    follower, given = call.follower, call.tensors[0]
    listed = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if call.name in NORMS:
        at = next((a for a in call.args[1:] if isinstance(a, list | tuple)), None)
        listed = at if at is not None else call.kwargs.get("dim", listed if isinstance(listed, list | tuple) else None)
    if isinstance(listed, Tensor):
        elementwise(call)
        return
    axes = (
        list(range(given.dim())) if listed is None or listed == [] else [listed] if isinstance(listed, int) else list(listed)
    )
    axes = sorted({axis % max(1, given.dim()) for axis in axes})
    core = follower.core(given)
    ids = core
    if any(core.shape[axis] > 1 for axis in axes):
        ids = core.amax(axes, keepdim=True)
        if not bool((core == ids).all()):
            ids = follower.reduce(core, axes) if varying(ids) else torch.zeros_like(ids)
    for result in call.results:
        if result.dim() == given.dim():
            follower.set(result, ids)
        else:
            squeezed = ids
            for axis in reversed(axes):
                squeezed = squeezed.squeeze(axis)
            follower.set(result, squeezed)


def _spatial(call: Ran) -> None:
    """Joins what one channel's map is made of; the result is of the same channels."""
    given, result = call.tensors[0], call.results[0]
    if given.dim() != result.dim():
        unknown(call)
        return
    plane = [d for d in range(given.dim()) if given.shape[d] != result.shape[d]]
    flat = sorted({*plane, *range(max(given.dim() - 2, 1), given.dim())})
    ids = call.follower.units.join_along(call.follower.core(given), flat)
    for each in call.results:
        call.follower.set(each, ids)


def _copy(call: Ran) -> None:
    ids = call.follower.core(call.tensors[1])
    call.follower.write(call.results[0], ids.reshape([*[1] * (call.results[0].dim() - ids.dim()), *ids.shape]))


def _fill(call: Ran) -> None:
    """Write one number everywhere: what is of channels stays of them, as a bias does that is zeroed in part."""
    if call.before is not None and bool(call.before.any()):
        call.follower.set(call.results[0], call.before)
    else:
        call.follower.set_empty(call.results[0])


def _index_put(call: Ran) -> None:
    """Write values into places of a tensor."""
    follower, into, values = call.follower, call.tensors[0], call.args[2]
    ids = follower.ids(into).clone()
    new = follower.ids(values)
    indices = tuple(slice(None) if i is None else i for i in call.args[1])
    if bool(ids.any()) and not bool(new.any()):
        follower.set(call.results[0], ids)
        return
    ids[indices] = new
    (follower.write if call.in_place else follower.set)(call.results[0], ids)


RULES: dict[str, Callable[[Ran], None]] = {
    **LAYERS,
    **dict.fromkeys(MOVES, move),
    "copy": _copy,
    "index_put": _index_put,
    "fill": _fill,
    "zero": _fill,
}
