"""Which attributes that are as large as a number of channels do count them.

A window of four positions is as large as four heads. So for each kind of module one channel is cut, with all attributes that
may count it changed, with one left as it is, with all left: the first that is faithful tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from torch import nn

from compress.methods.pruning.faithfulness import Checker
from compress.methods.pruning.narrowing import build_narrow
from compress.methods.pruning.structure.coupling import Count
from compress.models.inputs import ModelInputs, rows

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
    checker = cache(lambda: Checker(module, rows(example, slice(1))))
    known: dict[frozenset[Kind], frozenset[Kind]] = {}
    settled: list[Group] = []
    for group in groups:
        kinds = frozenset(_kind(module, count) for count in group.counts)
        if kinds and kinds not in known:
            known[kinds] = next(_faithful(module, checker(), group, kinds, lose_one(group)), frozenset())
        others = known.get(kinds, frozenset())
        settled.append(_without(module, group, others) if others else group)
    return settled


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
