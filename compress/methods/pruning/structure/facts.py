"""What following a model writes down on its way, to be settled when all of it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Beside:
    """Units of two operands of one operator, to be joined where neither is repeated along an axis on which the other varies.

    Attributes:
        sizes: of the second operand, before it was repeated.
    """

    ours: Tensor
    theirs: Tensor
    sizes: tuple[int, ...]
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Shaped:
    """What an operator made that may have been given its sizes as numbers, in the module at a path."""

    path: str
    ids: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Reduced:
    """What was reduced along axes, and what that made: of the same units, once these are alike along the axes."""

    ids: Tensor
    axes: tuple[int, ...]
    made: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Grouped:
    """A grouped convolution: what each group reads and makes, (groups, channels), and its weight's second axis."""

    path: str
    inputs: Tensor
    outputs: Tensor
    axis: Tensor


@final
@dataclass(kw_only=True)
class Weight:
    """A tensor that weighs: units along each of its axes; ``out`` are the axes along which outputs are made."""

    axes: list[Tensor | None]
    out: set[int] = field(default_factory=set)
    into: set[int] = field(default_factory=set)


@final
@dataclass(frozen=True, kw_only=True)
class Call:
    """An operator that ran, with the numbers of the calls that it reads."""

    name: str
    path: str
    reads: tuple[int, ...]
    shape: tuple[int, ...]
