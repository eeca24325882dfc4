"""Units, and arrays that say of which unit each element of a tensor is.

A unit is what goes as one: the smallest set of elements that a cut may take. 0 is none: what does not go with any channel.
Arrays of units have the shape of their tensor; along axes where all elements are of the same unit they have stride 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int64]


@final
class Units:
    """Units that are joined as it is found that one cannot go without the other."""

    def __init__(self) -> None:
        self._parents: Ids = np.zeros(1, np.int64)
        self._reasons: list[tuple[Ids, str]] = []
        self.joins = 0

    def new(self, *shape: int) -> Tensor:
        """Make units of their own, an array of them."""
        first = len(self._parents)
        ids = np.arange(first, first + int(np.prod(shape, dtype=np.int64)))
        self._parents = np.concatenate([self._parents, ids])
        return torch.from_numpy(ids.reshape(shape))

    def find(self, ids: Ids) -> Ids:
        """Return for each unit the least that it is joined with."""
        found = self._parents[ids]
        while True:
            further = self._parents[found]
            if np.array_equal(further, found):
                break
            found = further
        self._parents[ids] = found
        return found

    def join(self, ours: Tensor | Ids, theirs: Tensor | Ids) -> None:
        """Join units one by one, arrays of shapes that broadcast; where either is none nothing is joined."""
        a, b = np.broadcast_arrays(np.asarray(ours), np.asarray(theirs))
        a, b = self.find(a.ravel()), self.find(b.ravel())
        both = (a != 0) & (b != 0)
        a, b = a[both], b[both]
        while len(a) and (differ := a != b).any():
            a, b = a[differ], b[differ]
            self._parents[np.maximum(a, b)] = np.minimum(a, b)
            a, b = self.find(a), self.find(b)
            self.joins += 1

    def join_along(self, ids: Tensor, axes: Sequence[int]) -> Tensor:
        """Join all units along some axes; return the array, of size 1 along them."""
        first = ids
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        if first.shape != ids.shape:
            least = _first_units(ids, axes)
            self.join(ids, least)
            return torch.from_numpy(self.find(least.numpy()))
        return first

    def keep(self, ids: Tensor | Ids, reason: str) -> None:
        """Say of units that they cannot go, and why; the first reason of a unit counts."""
        flat = np.unique(np.asarray(ids))
        if flat[flat != 0].size:
            self._reasons.append((flat[flat != 0], reason))
            self.joins += 1

    def reasons(self) -> dict[int, str]:
        """Return the reason of each unit that cannot go."""
        reasons: dict[int, str] = {}
        for ids, reason in self._reasons:
            for unit in np.unique(self.find(ids)).tolist():
                reasons.setdefault(unit, reason)
        return reasons

    def core(self, ids: Tensor) -> Tensor:
        """Return the array as small as it can be: of size 1 along each axis where units are all alike."""
        for axis, (size, stride) in enumerate(zip(ids.shape, ids.stride(), strict=True)):
            if size > 1 and stride == 0:
                ids = ids.narrow(axis, 0, 1)
        if ids.numel() == 0:
            return ids
        ids = torch.from_numpy(self.find(np.ascontiguousarray(ids.numpy()))).reshape(ids.shape)  # of no axes it had made one
        for axis, size in enumerate(ids.shape):
            if size > 1 and bool((ids == ids.narrow(axis, 0, 1)).all()):
                ids = ids.narrow(axis, 0, 1)
        return ids


def _first_units(ids: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the greatest unit along axes: one that is there, wherever any is."""
    return ids.amax(tuple(axes), keepdim=True)


def varying(core: Tensor) -> list[int]:
    """List the axes along which the units of a core differ."""
    return [axis for axis, size in enumerate(core.shape) if size > 1]


def components(rows: Ids, fixed: Any) -> int:
    """Count what can still go by itself when the units of each row are joined, without what ``fixed`` says must stay."""
    ids, inverse = np.unique(rows, return_inverse=True)
    inverse = inverse.reshape(rows.shape)
    alone = Units()
    own = alone.new(len(ids)).numpy()
    alone.join(own[inverse], own[inverse[:, :1]])
    joined = alone.find(own)
    stay = {int(joined[i]) for i, unit in enumerate(ids) if unit == 0 or int(unit) in fixed}
    return len(set(joined.tolist()) - stay)


def same_shape(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat two arrays to the shape that they have together."""
    shape = np.broadcast_shapes(tuple(ours.shape), tuple(theirs.shape))
    return ours.expand(shape), theirs.expand(shape)
