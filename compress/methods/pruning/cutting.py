"""Cuts of groups: which channels go at a ratio, and which groups can be cut, all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from compress.methods.pruning.channels import Group, choose_channels, choose_shares, least_important, share_ratio
from compress.methods.pruning.matching import matching_widths
from compress.methods.pruning.narrowing import Dropped, build_narrow
from compress.methods.pruning.operations import Narrow
from compress.methods.pruning.proof import Proof
from compress.models.inputs import ModelInputs


def cut(
    module: nn.Module,
    example: ModelInputs,
    groups: Sequence[Group],
    ratio: float,
    multiple: int,
    ratios: Mapping[str, float] | None = None,
    *,
    by: Literal["share", "threshold", "family"] = "share",
) -> tuple[Narrow | None, tuple[str, ...]]:
    """Cut the fraction ``ratio`` of the channels, least important first, each group to a multiple.

    Args:
        ratios: of families or paths that have a fraction, and so a threshold, of their own.
        by: ``share``: each group loses the fraction. ``threshold``: the channels under one threshold for all groups go;
            ``family``: under one for each family of groups.

    Returns:
        The operation, None when nothing can be cut, and notes on what was left alone.
    """
    named = [(own, members) for own, members in share_ratio(groups, ratio, ratios or {}, by_family=by == "family") if own]
    able = [group for _, members in named for group in members]
    notes: tuple[str, ...] = ()
    if by != "share":
        able, notes = separable_groups(module, example, able, multiple)
    choose = choose_shares if by == "share" else choose_channels
    dropped: dict[str, list[int]] = {}
    for own, members in named:
        dropped |= choose([group for group in members if group in able], own, multiple)
    if dropped:
        proof = _proof(module, example, able, dropped)
        proof.add(list(dropped))
        if by == "share":
            _match(module, able, dropped, proof)
        return proof.operation, (*notes, *proof.notes)
    left = able or ([] if notes else groups)
    if left:
        widest = max(len(group.importance) for group in left)
        notes = (*notes, f"a ratio of {ratio:g} cuts no {multiple} channels from any group; the widest has {widest}")
    return None, notes


def cut_channels(
    module: nn.Module, example: ModelInputs, groups: Sequence[Group], dropped: Dropped
) -> tuple[Narrow | None, tuple[str, ...]]:
    """Cut channels by root. A group that cannot be cut without changing more than its channels is left whole and named."""
    proof = _proof(module, example, groups, dropped)
    proof.add([root for root, channels in dropped.items() if channels])
    return proof.operation, proof.notes


def _match(module: nn.Module, groups: Sequence[Group], dropped: dict[str, list[int]], proof: Proof) -> None:
    """Cut groups that cannot be cut alone to widths that match, where these can be had."""
    for root, fault in list(proof.faults.items()):
        if root not in proof.faults or not fault.path:
            continue
        left = [group for group in groups if group.root in proof.faults or group.root not in dropped]
        widths = {group.root: len(group.importance) - len(dropped.get(group.root, [])) for group in left}
        for chosen in matching_widths(module, left, fault.path, widths):
            before = dict(dropped)
            dropped |= {group.root: least_important(group, chosen[group.root]) for group in left if group.root in chosen}
            if proof.add_together(list(chosen)):
                break
            dropped.update(before)


def separable_groups(
    module: nn.Module, example: ModelInputs, groups: Sequence[Group], multiple: int
) -> tuple[list[Group], tuple[str, ...]]:
    """Select the groups that can lose ``multiple`` channels and nothing else, with notes on the others."""
    wide = {g.root: g for g in groups if len(g.importance) > g.step(multiple)}
    dropped = {root: least_important(group, _most(group, multiple)) for root, group in wide.items()}
    proof = _proof(module, example, groups, dropped)
    proof.add(list(wide))
    return [group for root, group in wide.items() if root in proof.able], proof.notes


def _proof(module: nn.Module, example: ModelInputs, groups: Sequence[Group], dropped: Dropped) -> Proof:
    return Proof(module, example, lambda roots: build_narrow(module, groups, {root: dropped[root] for root in roots}))


def _most(group: Group, multiple: int) -> int:
    """Return the greatest width under a group's own that it may have after a cut."""
    step = group.step(multiple)
    return max(step, (len(group.importance) - step) // group.parts * group.parts)
