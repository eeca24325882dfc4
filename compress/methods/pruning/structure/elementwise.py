"""Operators that compute each element of elements at the same place, and those that are not known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.methods.pruning.structure.ran import Ran
from compress.methods.pruning.structure.units import same_shape, varying

CODE = "they are computed with numbers that the model's code makes for each"


def join_beside(call: Ran, ours: Tensor, our_sizes: Sequence[int], theirs: Tensor, their_sizes: Sequence[int]) -> Tensor:
    """Join two operands where the same place is of both; say what the result is of."""
    repeated = [d for d in varying(ours) if their_sizes[d] == 1 < our_sizes[d]]
    also = [d for d in varying(theirs) if our_sizes[d] == 1 < their_sizes[d]]
    if not bool(ours.any()) and bool(theirs.any()):
        return join_beside(call, theirs, their_sizes, ours, our_sizes)
    if repeated and also:
        ours, theirs = same_shape(ours, theirs)
        call.follower.units.join(ours, theirs)
        return ours
    if also:
        return join_beside(call, theirs, their_sizes, ours, our_sizes)
    call.follower.put_beside(ours, theirs, tuple(their_sizes), CODE)
    if not repeated and bool(theirs.any()):
        call.follower.units.join(*same_shape(ours, theirs))
    ours, theirs = same_shape(ours, theirs)
    return torch.where(ours != 0, ours, theirs if not repeated else ours)


def join_own(call: Ran, ids: Tensor, given: Tensor, own: Tensor, shape: Sequence[int]) -> None:
    sizes = tuple(given.shape[d] if size == -1 else size for d, size in enumerate(shape))
    call.follower.put_beside(ids, own, sizes, CODE)
    if not [d for d in varying(ids) if sizes[d] == 1 < given.shape[d]]:
        call.follower.units.join(*same_shape(ids, own))


def elementwise(call: Ran) -> None:
    follower, shape = call.follower, call.results[0].shape
    operands = [t for t in call.tensors if t.numel() > 1] or call.tensors[:1]
    rank = len(shape)
    found: list[tuple[Tensor, tuple[int, ...]]] = []
    for tensor in operands:
        lead = [1] * (rank - tensor.dim())
        found.append((follower.core(tensor).reshape([*lead, *follower.core(tensor).shape]), (*lead, *tensor.shape)))
    ids, sizes = found[0]
    for theirs, their_sizes in found[1:]:
        ids = join_beside(call, ids, sizes, theirs, their_sizes)
        sizes = tuple(max(a, b) for a, b in zip(sizes, their_sizes, strict=True))
    for result in call.results:
        (follower.write if call.in_place else follower.set)(result, ids)


def unknown(call: Ran) -> None:
    for tensor in call.tensors:
        call.follower.units.keep(call.follower.core(tensor), f"it is not known what the operator {call.name} does with them")
    for result in call.results:
        call.follower.set(result, torch.zeros([1] * result.dim(), dtype=torch.int64))
