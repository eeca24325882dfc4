"""Groups of coupled channels, what each channel is worth, and which are dropped.

A group is a set of channels that can stand in for each other: each goes through the same axes of the same tensors
(``structure``). An attention's heads are the channels of a group, and so are the pairs of a split and the blocks of a
shuffle. No cut of one is believed before it was checked (``proof.py``).
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from compress.methods.cost_model import Coupling
from compress.methods.pruning.counting import settle_counts
from compress.methods.pruning.families import find_families
from compress.methods.pruning.importance import Scorer, l2
from compress.methods.pruning.structure.coupling import ChannelSet, Count, Slices, find_structure
from compress.models.inputs import ModelInputs, call, rows
from profiles.errors import first_line

LEAST_SAMPLES = 2
"""Samples that the channels are followed on."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels of one group.

    Attributes:
        root: path of the layer whose outputs name the group.
        importance: of each channel, mean over the group's layers, scaled to mean 1 (over all groups where the measure is
            comparable between them); shape (channels,).
        family: role of the root and scale of its feature map, such as ``stage/4``: a quarter of the input's height.
        parts: of equal size in a row, which a group norm normalises apart: they lose equally many channels.
        slices: where the channels are in parameters and buffers. counts: attributes that count them.
    """

    root: str
    importance: np.ndarray[tuple[int], np.dtype[np.float64]]
    family: str = ""
    parts: int = 1
    slices: tuple[Slices, ...] = ()
    counts: tuple[Count, ...] = ()

    def step(self, multiple: int) -> int:
        """Channels of which the group has a multiple after a cut.

        A channel that is several of every layer's, as a head is, counts as so many, and alone where it is no fewer than
        the multiple: what is computed within a head is as wide as before.
        """
        each = min((slices.indices.shape[1] for slices in self.slices if slices.weighs), default=1)
        return math.lcm(1 if each >= multiple else math.lcm(multiple, each) // each, self.parts)

    def kept_by(self, tensors: Mapping[str, Mapping[str, list[int]]]) -> list[int]:
        """List the channels that stay when tensors keep only these indices by dimension."""
        for slices in self.slices:
            kept = tensors.get(slices.tensor, {}).get(str(slices.axis))
            if kept is not None:
                return [i for i, stays in enumerate(np.isin(slices.indices[:, 0], kept)) if stays]
        return list(range(len(self.importance)))


def rank_groups(
    module: nn.Module,
    example: ModelInputs,
    measure: Callable[[nn.Module], Scorer] | None = None,
    *,
    comparable: bool = False,
) -> tuple[list[Group], tuple[str, ...]]:
    """Find all groups that may be cut, with the importance of each channel over the coupled layers.

    Args:
        measure: gives the scorer for a working copy of ``module``; L2 without.
        comparable: whether its scores mean the same in every group.

    Returns:
        The groups, and notes on layers whose channels have to stay, with the reason.
    """
    work = copy.deepcopy(module).eval()
    example = rows(example, slice(LEAST_SAMPLES))
    try:
        structure = find_structure(work, example)
    except Exception as error:  # whatever the model trips over, it is left whole
        fact = "its channels cannot be followed" if _runs(work, example) else "the model does not run on its example"
        return [], (f"no channel is cut: {fact} ({type(error).__name__}: {first_line(error)})",)
    scorer = l2(work, (), lambda *_: torch.zeros(())) if measure is None else measure(work)
    families = find_families(work, structure, example)
    groups: list[Group] = []
    for root, channels in _named(structure.sets):
        scores = scorer(channels)
        if scores is not None:
            values = scores.detach().double().numpy()
            family = families.get(root.partition(":")[0], "stage")
            groups.append(
                Group(
                    root=root,
                    importance=values,
                    family=family,
                    parts=channels.parts,
                    slices=channels.slices,
                    counts=channels.counts,
                )
            )
    means = [float(group.importance.mean()) for group in groups]
    if comparable:
        means = [float(np.mean(means))] * len(means)
    scaled = [
        replace(g, importance=g.importance / (mean if mean > 0 else 1.0)) for g, mean in zip(groups, means, strict=True)
    ]
    scaled = settle_counts(work, example, scaled, lambda g: least_important(g, len(g.importance) - g.parts))
    return scaled, tuple(f"{path} keeps its channels: {reason}" for path, reason in structure.fixed.items())


def _runs(module: nn.Module, example: ModelInputs) -> bool:
    try:
        with torch.no_grad():
            call(module, example)
    except Exception:
        return False
    return True


def _named(sets: Sequence[ChannelSet]) -> Iterable[tuple[str, ChannelSet]]:
    """Name each set by the first layer that makes its channels; by the first of them too where it makes others."""
    taken: set[str] = set()
    for channels in sets:
        made = [s for s in channels.slices if s.makes]
        paths = [s.tensor.rpartition(".")[0] or s.tensor for s in made]
        root = next((path for path in paths if path not in taken), f"{paths[0]}:{made[0].indices[0, 0]}")
        taken.add(root)
        yield root, channels


def least_important(group: Group, keep: int) -> list[int]:
    """Return the least important channels of a group, in order: those that go when ``keep`` stay."""
    total = len(group.importance)
    parts = group.parts if keep % group.parts == 0 else 1
    size = total // parts
    order = np.argsort(group.importance.reshape(parts, size), axis=1, kind="stable")[:, : size - keep // parts]
    return sorted((order + size * np.arange(parts)[:, None]).ravel().tolist())


def choose_shares(groups: Sequence[Group], ratio: float, multiple: int) -> dict[str, list[int]]:
    """Choose the channels to drop by root: the same fraction of each group, what stays rounded to a multiple.

    Example: of 40 channels at 0.25 and a multiple of 8, 30 would stay, and 32 do.
    """
    widths = {group.root: (1 - ratio) * len(group.importance) for group in groups}
    return _rounded(groups, widths, multiple)


def choose_channels(groups: Sequence[Group], ratio: float, multiple: int) -> dict[str, list[int]]:
    """Choose the channels to drop by root: those under one threshold for all groups, counts rounded to a multiple."""
    if not groups:
        return {}
    everything = np.sort(np.concatenate([g.importance for g in groups]))
    threshold = everything[min(round(ratio * len(everything)), len(everything) - 1)]
    return _rounded(groups, {g.root: float((g.importance >= threshold).sum()) for g in groups}, multiple)


def _rounded(groups: Sequence[Group], widths: Mapping[str, float], multiple: int) -> dict[str, list[int]]:
    dropped: dict[str, list[int]] = {}
    for group in groups:
        step = group.step(multiple)
        keep = max(1, round(widths[group.root] / step)) * step
        if keep < len(group.importance):
            dropped[group.root] = least_important(group, keep)
    return dropped


def find_couplings(groups: Sequence[Group]) -> dict[str, Coupling]:
    """Find the sizes that shrink with each group, by root."""
    result: dict[str, Coupling] = {}
    for group in groups:
        sizes: dict[str, dict[int, int]] = {}
        for slices in group.slices:
            sizes.setdefault(slices.tensor, {})[slices.axis] = slices.indices.shape[1]
        result[group.root] = Coupling(width=len(group.importance), sizes=sizes)
    return result


def match_name(names: Sequence[str], group: Group) -> str | None:
    """Return the first of ``names`` that means a group: its family or a pattern of its root's path."""
    return next((n for n in names if n == group.family or fnmatch.fnmatchcase(group.root, n)), None)


def share_ratio(
    groups: Sequence[Group], ratio: float, ratios: Mapping[str, float], *, by_family: bool
) -> Iterable[tuple[float, list[Group]]]:
    """Collect groups that share a threshold, with their fraction."""
    sets: dict[tuple[str | None, str], list[Group]] = {}
    for group in groups:
        name = match_name(list(ratios), group)
        sets.setdefault((name, group.family if by_family and name is None else ""), []).append(group)
    return [(ratio if name is None else ratios[name], members) for (name, _), members in sets.items()]
