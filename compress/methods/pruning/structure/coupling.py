"""From followed units to sets of channels: what is settled after the run, and what each channel is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from torch import nn

from compress.methods.pruning.structure.facts import Call
from compress.methods.pruning.structure.follower import Follower
from compress.methods.pruning.structure.settling import settle
from compress.methods.pruning.structure.units import Ids, varying
from compress.models.inputs import ModelInputs

ALONE = "all of its channels go together"
OF_WEIGHTS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose sizes are those of their weights."""


@final
@dataclass(frozen=True, eq=False)
class Slices:
    """Where the channels of a set are in one axis of one parameter or buffer.

    Attributes:
        indices: (channels, indices of each).
        weighs: whether the tensor is the weight of a layer; ``makes``: and the channels are made there.
        groups: whether whole groups of a grouped convolution go with them.
    """

    tensor: str
    axis: int
    indices: Ids
    weighs: bool
    makes: bool
    groups: bool = False


@final
@dataclass(frozen=True, eq=False)
class Count:
    """A number of channels that a module states about itself, in an attribute (at a place in it, if it is a tuple).

    Attributes:
        axis: of which axis it is the size: all that is on it, told apart from others.
        each: as how many the number counts each channel of a set; (channels,).
    """

    path: str
    attribute: str
    place: int | None
    axis: bytes
    each: Ids


@final
@dataclass(frozen=True, eq=False)
class ChannelSet:
    """Channels that are alike: each goes through the same axes of the same tensors, as often.

    Attributes:
        parts: in a row, of equal size, that a group norm normalises apart.
        counts: numbers that the code was seen to count them with.
    """

    slices: tuple[Slices, ...]
    parts: int
    counts: tuple[Count, ...]

    @property
    def width(self) -> int:
        return len(self.slices[0].indices)


@final
@dataclass(frozen=True, kw_only=True)
class Structure:
    """What following a model found.

    Attributes:
        sets: of channels that may be cut.
        fixed: of each layer's path, why its channels must stay.
        calls: the operators that ran, for what depends on their order.
        outputs: of them, those that make outputs of the model.
    """

    sets: tuple[ChannelSet, ...]
    fixed: Mapping[str, str]
    calls: Sequence[Call]
    outputs: frozenset[int]


def find_structure(module: nn.Module, example: ModelInputs) -> Structure:
    """Follow the channels of a model in evaluation mode through one run on ``example``.

    Raises:
        Exception: whatever the model raises on ``example``.
    """
    follower = Follower(module)
    follower.run(module, example)
    settle(follower, module)
    _keep_constants(follower, module)
    reasons = follower.units.reasons()
    members = _members(follower)
    sets = _sets(follower, module, members, reasons)
    return Structure(
        sets=sets,
        fixed=_fixed(follower, sets, reasons),
        calls=follower.calls,
        outputs=frozenset(follower.outputs),
    )


def _keep_constants(follower: Follower, module: nn.Module) -> None:
    """Keep the channels that layers with weights of buffers make and read: a transform that is no matter of training."""
    trained = {name for name, _ in module.named_parameters()}
    for name, weight in follower.weights.items():
        for axis in () if name in trained else (*weight.out, *weight.into):
            ids = weight.axes[axis]
            if ids is not None:
                follower.units.keep(ids, f"{name} is constant")


@final
@dataclass(frozen=True, eq=False)
class Member:
    """The units along one axis of a parameter or buffer."""

    tensor: str
    axis: int
    ids: Ids
    weighs: bool
    makes: bool


def _members(follower: Follower) -> list[Member]:
    """List tensor, axis and units along it, wherever units vary along an axis of a parameter or buffer."""
    found: list[Member] = []
    for name, weight in follower.weights.items():
        for axis, ids in enumerate(weight.axes):
            if ids is not None and (axis in weight.out or axis in weight.into):
                found.append(Member(name, axis, follower.units.find(ids.numpy()), True, axis in weight.out))
    for name, ids in follower.elements.items():
        core = follower.units.core(ids)
        for axis in varying(core):
            if len(varying(core)) == 1:
                found.append(Member(name, axis, core.movedim(axis, 0).reshape(-1).numpy(), False, False))
            else:
                follower.units.keep(core, f"{name} holds them in no one axis")
    return found


def _sets(
    follower: Follower, module: nn.Module, members: Sequence[Member], reasons: Mapping[int, str]
) -> tuple[ChannelSet, ...]:
    if not members:
        return ()
    lengths = [len(member.ids) for member in members]
    units = np.concatenate([member.ids for member in members])
    numbers, indices = np.repeat(np.arange(len(members)), lengths), np.concatenate([np.arange(n) for n in lengths])
    free = (units != 0) & ~np.isin(units, list(reasons))
    order = np.lexsort((indices[free], numbers[free], units[free]))
    units, numbers, indices = units[free][order], numbers[free][order], indices[free][order]
    firsts = np.unique(units, return_index=True)[1]
    alike: dict[bytes, list[int]] = {}
    for start, end in pairwise([*firsts.tolist(), len(units)]):
        alike.setdefault(numbers[start:end].tobytes(), []).append(start)
    found: list[ChannelSet] = []
    for kind, starts in alike.items():
        through, each = np.unique(np.frombuffer(kind, numbers.dtype), return_counts=True)
        makes = [members[number].makes for number in through]
        together = any(len(np.unique(members[number].ids)) == 1 for number in through)
        if not any(makes) or (len(starts) < 2 and together):
            continue
        ends = np.cumsum(each)
        rows = np.array([indices[start : start + ends[-1]] for start in starts])
        first = makes.index(True)
        rows = rows[np.argsort(rows[:, ends[first] - each[first]], kind="stable")]
        slices = tuple(
            Slices(
                tensor=members[number].tensor,
                axis=members[number].axis,
                indices=rows[:, end - count : end],
                weighs=members[number].weighs,
                makes=members[number].makes,
                groups=members[number].axis == 0 and members[number].tensor.removesuffix(".weight") in follower.depthwise,
            )
            for number, count, end in zip(through, each, ends, strict=True)
        )
        own = members[through[first]].ids[slices[first].indices[:, 0]]
        found.append(ChannelSet(slices=slices, parts=_parts(follower, own), counts=_counts(follower, module, own)))
    return tuple(found)


def _parts(follower: Follower, units: Ids) -> int:
    """Into how many parts, in a row, group norms divide channels; 1 where these are not all or not in a row."""
    parts = 1
    for ids, count in follower.parts:
        normalised = follower.units.find(ids.numpy())
        if count > 1 and np.array_equal(normalised, units):
            parts = int(np.lcm(parts, count))
    return parts if len(units) % parts == 0 else 1


def _counts(follower: Follower, module: nn.Module, units: Ids) -> tuple[Count, ...]:
    """Find the attributes by which a module's code counts channels: those as large as an axis that it asked for."""
    found: dict[tuple[str, str, int | None, bytes], Count] = {}
    for each in follower.shaped:
        core = follower.units.core(each.ids)
        for axis in varying(core):
            along = core.movedim(axis, 0).reshape(core.shape[axis], -1)[:, 0].numpy()
            if not np.isin(along, units).any() or _holds_samples(along, follower.samples):
                continue
            counted = (along[None] == units[:, None]).sum(axis=1)
            for attribute, place in _stating(module.get_submodule(each.path), len(along)):
                count = Count(path=each.path, attribute=attribute, place=place, axis=along.tobytes(), each=counted)
                found.setdefault((each.path, attribute, place, count.axis), count)
    return tuple(found.values())


def _holds_samples(along: Ids, samples: int) -> bool:
    """Return whether an axis is the samples and the channels in one: no attribute is as large, whatever the samples."""
    if samples < 2 or len(along) % samples:
        return False
    rows = along.reshape(samples, -1)
    return bool((rows == rows[:1]).all())


def _stating(layer: nn.Module, size: int) -> list[tuple[str, int | None]]:
    """List attributes that state a size, with the place in a tuple."""
    if isinstance(layer, OF_WEIGHTS) and getattr(layer, "weight", None) is not None:
        return []
    found: list[tuple[str, int | None]] = []
    for name, value in vars(layer).items():
        if type(value) is int and value == size and not name.startswith("_"):
            found.append((name, None))
        elif isinstance(value, tuple | list):
            found += [(name, place) for place, one in enumerate(value) if type(one) is int and one == size]
    return found


def _fixed(follower: Follower, sets: Sequence[ChannelSet], reasons: Mapping[int, str]) -> dict[str, str]:
    """Give for each layer none of whose channels is in a set the reason of the first."""
    able = {slices.tensor for channels in sets for slices in channels.slices if slices.makes}
    fixed: dict[str, str] = {}
    for name, weight in follower.weights.items():
        for axis in weight.out:
            ids = weight.axes[axis]
            if name not in able and ids is not None:
                first = int(follower.units.find(ids.numpy())[0])
                fixed[name.rpartition(".")[0] or name] = reasons.get(first, ALONE)
    return fixed
