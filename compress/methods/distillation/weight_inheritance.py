"""Weight inheritance from a teacher: blocks by interval, channels by importance.

After TinyCLIP's weight inheritance (Wu et al. 2023, section 3.2): student block i of D_S takes teacher block
i * D_T // D_S; of a wider layer the student keeps the channels of largest norm. Channels have to be the same wherever
they flow, so convolutional models are cut along the coupled groups of pruning, and transformers along their residual
stream, their heads and each block's hidden units.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compress.methods.pruning.channels import Group, rank_groups
from compress.methods.pruning.faithfulness import find_unfaithfulness
from compress.methods.pruning.narrowing import build_narrow
from compress.models.inputs import ModelInputs

State = Mapping[str, Tensor]
Pair = tuple[int, int]
FUSED = re.compile(r"(qkv|in_proj)[^.]*$|\.(qkv|in_proj)\.")
INTO_HEADS = re.compile(r"(^|[._])(q|k|v|query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)$")
OUT_OF_HEADS = re.compile(r"(^|\.)(proj|out_proj|o_proj|attention\.output\.dense)\.weight$")


def inherit_weights(
    student: nn.Module, teacher: nn.Module, between: nn.Module | None, example: ModelInputs
) -> tuple[str, ...]:
    """Copy weights of ``teacher`` into ``student``, in place.

    Args:
        between: a fresh module of the student's depth and the teacher's width; None when there is no such.

    Returns:
        Notes: how much was inherited, and how.
    """
    own, deep = student.state_dict(), map_by_depth(student.state_dict(), teacher.state_dict())
    if all(name in deep and deep[name].shape == own[name].shape for name in own):
        student.load_state_dict(dict(deep))
        return ("every weight is inherited from the teacher",)
    if between is not None and not _normalises_channels(teacher):
        state = _by_groups(student, between, deep, example)
        if state is not None:
            student.load_state_dict(state)
            return ("every weight is inherited from the teacher: coupled channels of largest norm",)
    taken = _by_shape(own, deep, student, teacher)
    student.load_state_dict({**own, **taken})
    count = sum(own[name].numel() for name in taken)
    return (f"{100 * count / sum(v.numel() for v in own.values()):.0f} % of the weights are inherited from the teacher",)


def map_by_depth(student: State, teacher: State) -> dict[str, Tensor]:
    """Return the teacher's tensors under the student's names, blocks taken by interval."""
    depths = _depths(student), _depths(teacher)
    tensors: dict[str, Tensor] = {}
    for name in student:
        source = _source(name, *depths)
        if source in teacher:
            tensors[name] = teacher[source]
    return tensors


def _depths(state: State) -> dict[str, int]:
    """Count the numbered children of each container, by its path."""
    counts: dict[str, int] = {}
    for name in state:
        parts = name.split(".")
        for index, part in enumerate(parts):
            if part.isdigit():
                path = ".".join(parts[:index])
                counts[path] = max(counts.get(path, 0), int(part) + 1)
    return counts


def _source(name: str, ours: dict[str, int], theirs: dict[str, int]) -> str:
    """Return the teacher's name for a student's tensor: ``layer1.1.conv`` of 2 blocks comes from ``layer1.2.conv`` of 4."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        path = ".".join(parts[:index])
        if part.isdigit() and theirs.get(path, 0) > ours[path] > 0:
            parts[index] = str(int(part) * theirs[path] // ours[path])
    return ".".join(parts)


def _by_groups(student: nn.Module, between: nn.Module, deep: State, example: ModelInputs) -> dict[str, Tensor] | None:
    """Cut the student's state from the teacher's along coupled groups; None when the groups do not lead there."""
    wide = between.state_dict()
    if any(name not in deep or deep[name].shape != wide[name].shape for name in wide):
        return None
    between.load_state_dict(dict(deep))
    groups, _ = rank_groups(between, example)
    own = student.state_dict()
    dropped = {group.root: spare for group in groups if (spare := _spare(group, own))}
    operation = build_narrow(between, groups, dropped)
    if not operation.tensors or find_unfaithfulness(between, operation, example):
        return None
    state = operation.apply(between).state_dict()
    fits = set(state) == set(own) and all(state[name].shape == own[name].shape for name in own)
    return dict(state) if fits else None


def _spare(group: Group, student: State) -> list[int]:
    """Return the least important channels of a group, as many as the student has fewer."""
    first = group.slices[0]
    width = student[first.tensor].shape[first.axis] // first.indices.shape[1]
    return sorted(int(i) for i in group.importance.argsort(kind="stable")[: len(group.importance) - width])


def _normalises_channels(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.LayerNorm) for layer in module.modules())


def _by_shape(own: State, deep: State, student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Slice the teacher's tensors to the student's shapes, dimension by dimension."""
    stream = _stream(own, deep)
    keep = _strongest(deep, own, stream, "") if stream else torch.zeros(0, dtype=torch.long)
    heads = _head_channels(stream, student, teacher, deep) if stream else keep
    taken: dict[str, Tensor] = {}
    for name, target in own.items():
        source = deep.get(name)
        if source is None or source.dim() != target.dim():
            continue
        if any(theirs < ours for theirs, ours in zip(source.shape, target.shape, strict=True)):
            continue
        for dimension, (before, after) in enumerate(zip(source.shape, target.shape, strict=True)):
            if before != after:
                chosen = _chosen(name, dimension, (before, after), stream, keep, heads, own, deep)
                source = source.index_select(dimension, chosen)
        taken[name] = source
    return taken


def _chosen(
    name: str, dimension: int, pair: Pair, stream: Pair | None, keep: Tensor, heads: Tensor, own: State, deep: State
) -> Tensor:
    """Select the indices of one dimension of one tensor that stay."""
    if stream and pair == (3 * stream[0], 3 * stream[1]):
        return torch.cat([heads + part * stream[0] for part in range(3)])
    if stream and pair == stream:
        inner = (INTO_HEADS.search(name) and dimension == 0) or (OUT_OF_HEADS.search(name) and dimension == 1)
        return heads if inner else keep
    return _strongest(deep, own, pair, name.rpartition(".")[0].rpartition(".")[0])


def _stream(own: State, deep: State) -> Pair | None:
    """Return the width of the residual stream in teacher and student: the change of size that most dimensions share."""
    pairs = Counter(
        (t, s)
        for name, source in deep.items()
        if source.dim() == own[name].dim() <= 2
        for t, s in zip(source.shape, own[name].shape, strict=True)
        if t > s
    )
    return pairs.most_common(1)[0][0] if pairs else None


def _strongest(deep: State, own: State, pair: Pair, below: str) -> Tensor:
    """Select the indices of largest norm over all dimensions under ``below`` that shrink by ``pair``, sorted."""
    total = torch.zeros(pair[0], dtype=torch.float64)
    for name, source in deep.items():
        if not name.startswith(below) or source.dim() != own[name].dim():
            continue
        for dimension, sizes in enumerate(zip(source.shape, own[name].shape, strict=True)):
            if sizes == pair:
                total += source.detach().double().movedim(dimension, 0).reshape(pair[0], -1).norm(dim=1)
    return total.topk(pair[1]).indices.sort().values


def _head_channels(stream: Pair, student: nn.Module, teacher: nn.Module, deep: State) -> Tensor:
    """Select the channels of attention that stay: whole heads of largest norm, or as many of each when heads are equal."""
    theirs, ours = _heads(teacher), _heads(student)
    strength = torch.zeros(stream[0], dtype=torch.float64)
    for name, source in deep.items():
        if FUSED.search(name) and source.shape[0] == 3 * stream[0]:
            strength += source.detach().double().reshape(3, stream[0], -1).norm(dim=(0, 2))
        elif INTO_HEADS.search(name) and source.shape[0] == stream[0]:
            strength += source.detach().double().reshape(stream[0], -1).norm(dim=1)
    if not theirs or not ours:
        return strength.topk(stream[1]).indices.sort().values
    by_head = strength.reshape(theirs, -1)
    if theirs == ours:
        kept = by_head.topk(stream[1] // ours, dim=1).indices.sort(dim=1).values
        return (kept + torch.arange(theirs)[:, None] * by_head.shape[1]).flatten()
    best = by_head.norm(dim=1).topk(min(ours, theirs)).indices.sort().values
    channels: Tensor = (best[:, None] * by_head.shape[1] + torch.arange(by_head.shape[1])).flatten()
    return channels[: stream[1]]


def _heads(module: nn.Module) -> int:
    """Return the number of attention heads that a module states; 0 when none does."""
    names = ("num_heads", "num_attention_heads", "heads", "n_head")
    counts = (getattr(layer, name, None) for layer in module.modules() for name in names)
    return next((count for count in counts if isinstance(count, int)), 0)
