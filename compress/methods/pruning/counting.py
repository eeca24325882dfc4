"""Which attributes that are as large as a number of channels do count them.

A window of four positions is as large as four heads. So for each kind of module one channel is cut, with all attributes that
may count it changed, with one left as it is, with all left: the first that is faithful tells. Attributes that the model
does not read when it runs, as the widths that a constructor counts on, change nothing and are not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.methods.pruning.faithfulness import Checker
from compress.methods.pruning.narrowing import build_narrow
from compress.methods.pruning.structure.coupling import Count
from compress.models.inputs import ModelInputs, call, rows

if TYPE_CHECKING:
    from compress.methods.pruning.channels import Group

Kind = tuple[str, str]
"""The class of a module and an attribute of it."""


def settle_counts(
    module: nn.Module, example: ModelInputs, groups: Sequence[Group], lose_one: Callable[[Group], list[int]]
) -> list[Group]:
    """Leave of each group's counts those with which a cut is faithful; all where none is, as others may have to follow.

    Args:
        lose_one: the least that a group may lose.
    """
    one = rows(example, slice(1))
    checker = cache(lambda: Checker(module, one))
    stated = [(count.path, count.attribute) for group in groups for count in group.counts]
    read = _read_attributes(module, one, stated)
    known: dict[frozenset[Kind], frozenset[Kind]] = {}
    settled: list[Group] = []
    for group in groups:
        kinds = frozenset(_kind(module, count) for count in group.counts)
        if kinds & read and kinds not in known:
            known[kinds] = next(_faithful(module, checker(), group, kinds, lose_one(group)), frozenset())
        others = known.get(kinds, frozenset())
        settled.append(_without(module, group, others) if others else group)
    return settled


def _read_attributes(module: nn.Module, example: ModelInputs, stated: Iterable[tuple[str, str]]) -> frozenset[Kind]:
    """Run a model and return the kinds of those attributes, by path and name, that its modules read."""
    layers = {path: module.get_submodule(path) for path, _ in stated}
    read: set[Kind] = set()
    before = {path: type(layer) for path, layer in layers.items()}
    try:
        for path, kind in before.items():
            layers[path].__class__ = _noting(kind, read)
        if layers:
            with torch.no_grad():
                call(module, example)
    finally:
        for path, kind in before.items():
            layers[path].__class__ = kind
    return frozenset(read)


def _noting(kind: type[nn.Module], read: set[Kind]) -> type[nn.Module]:
    """Derive a class whose instances note which attributes are read."""

    def noting(self: nn.Module, name: str) -> Any:
        read.add((kind.__qualname__, name))
        return kind.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": noting})


def _faithful(
    module: nn.Module, checker: Checker, group: Group, kinds: frozenset[Kind], lost: list[int]
) -> Iterator[frozenset[Kind]]:
    """Yield what may be left as it is."""
    for left in (frozenset[Kind](), *(frozenset([kind]) for kind in sorted(kinds)), kinds):
        operation = build_narrow(module, [_without(module, group, left)], {group.root: lost})
        if checker.find_fault(operation) is None:
            yield left


def _without(module: nn.Module, group: Group, kinds: frozenset[Kind]) -> Group:
    return replace(group, counts=tuple(count for count in group.counts if _kind(module, count) not in kinds))


def _kind(module: nn.Module, count: Count) -> Kind:
    return type(module.get_submodule(count.path)).__qualname__, count.attribute
