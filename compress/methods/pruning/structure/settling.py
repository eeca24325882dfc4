"""What can only be settled when all of a model ran: along which axis the channels of a tensor vary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compress.methods.pruning.structure.facts import Beside, Grouped, Reduced
from compress.methods.pruning.structure.follower import Follower
from compress.methods.pruning.structure.units import components, same_shape, varying

ROUNDS = 64


def _keep_shared(follower: Follower, module: nn.Module) -> None:
    """A parameter with two names would lose channels under one of them only."""
    first: dict[int, str] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(tensor), name) != name and module.get_submodule(
            name.rpartition(".")[0]
        ) is not module.get_submodule(first[id(tensor)].rpartition(".")[0]):
            weight = follower.weights.get(first[id(tensor)])
            for ids in weight.axes if weight else []:
                if ids is not None:
                    follower.units.keep(ids, f"{first[id(tensor)]} is {name} too")


def settle(follower: Follower, module: nn.Module) -> None:
    """Join until every tensor's channels vary along one axis, and what stands beside it has the same."""
    _keep_shared(follower, module)
    units = follower.units
    wide = [*follower.wide, *(ids for ids in follower.elements.values() if ids.dim() > 1)]
    waiting = list(follower.beside)
    for _ in range(ROUNDS):
        before = units.joins
        live = _live(follower)
        fixed = units.reasons()
        for each in follower.reduced:
            _reduce(follower, each)
        waiting = [each for each in waiting if not _stand(follower, each)]
        for grouped in follower.grouped:
            _choose_groups(follower, grouped, fixed)
        left: list[Tensor] = []
        for ids in wide:
            core = units.core(ids)
            if len(varying(core)) > 1 and live & set(np.unique(core.numpy()).tolist()):
                _narrow(follower, core, fixed)
                core = units.core(core)
            if len(varying(core)) > 1:
                left.append(core)
        wide = left
        if units.joins == before:
            return


def _live(follower: Follower) -> set[int]:
    """Collect the units that a weight has."""
    axes = [ids.numpy() for weight in follower.weights.values() for ids in weight.axes if ids is not None]
    return set(np.unique(follower.units.find(np.concatenate(axes))).tolist()) if axes else set()


def _narrow(follower: Follower, core: Tensor, fixed: Mapping[int, str]) -> None:
    """Let an array vary along one axis only: that along which most can still go by itself."""
    rows = {axis: core.movedim(axis, 0).reshape(core.shape[axis], -1).numpy() for axis in varying(core)}
    best = max(rows, key=lambda axis: components(rows[axis], fixed))
    follower.units.join(rows[best], rows[best].max(axis=1, keepdims=True))


def _reduce(follower: Follower, each: Reduced) -> None:
    """Join what a reduction made with what it was made of, where this goes together by now."""
    core = follower.units.core(each.ids)
    if all(core.shape[axis] == 1 for axis in each.axes):
        follower.units.join(core, each.made)


def _stand(follower: Follower, each: Beside) -> bool:
    """Join two operands along the axis on which the first varies, unless the second is repeated there."""
    units = follower.units
    ours, theirs = units.core(each.ours), units.core(each.theirs)
    axes = varying(ours)
    if not axes:
        return True
    if any(each.sizes[axis] == 1 for axis in axes):
        return False
    ours, theirs = same_shape(ours, theirs)
    units.join(ours, theirs)
    if len(axes) == 1:
        lone = (theirs == 0) & (ours != 0)
        if bool(lone.any()):
            units.keep(ours[lone], each.reason)
        lone = (ours == 0) & (theirs != 0)
        if bool(lone.any()):
            units.keep(theirs[lone], each.reason)
        return True
    return False


def _choose_groups(follower: Follower, grouped: Grouped, fixed: Mapping[int, str]) -> None:
    """Whole groups go, or the same inputs of each: whichever leaves more to choose from."""
    units = follower.units
    inputs, outputs = (torch.from_numpy(units.find(ids.numpy())) for ids in (grouped.inputs, grouped.outputs))
    whole = torch.cat([inputs, outputs], 1).numpy()
    if components(whole, fixed) >= max(components(inputs.T.numpy(), fixed), 1):
        units.join(whole, whole.max(axis=1, keepdims=True))
        units.keep(grouped.axis, "a grouped convolution reads them")
        follower.depthwise[grouped.path] = inputs[:, 0]
    else:
        units.join(inputs, grouped.axis[None])
        units.join(outputs, outputs.amax(0, keepdim=True))
