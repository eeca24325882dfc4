"""Groups of channels that can only be cut together, and the cut.

The groups are those of torch-pruning's dependency graph (DepGraph, Fang et al. 2023). It works on a copy
here: what it would keep of each tensor is read off and becomes a ``Narrow`` operation, which alone
changes a model. So a replay needs neither torch-pruning nor its decisions.

torch-pruning does not follow every model rightly: a channel that moves through slices, pads and chunks can be
taken for another. So no cut is believed before it was checked (``faithful``); what fails is left whole and named.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.surgery import Narrow
from compress.training import flat_tensors

SIZES = ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features", "normalized_shape")
ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels of one dependency group.

    Attributes:
        root: path of the layer whose outputs name the group.
        importance: of each channel, mean over the group's layers, scaled to mean 1; shape (channels,).
    """

    root: str
    importance: np.ndarray[tuple[int], np.dtype[np.float64]]


def rank_groups(module: nn.Module, example: Tensor) -> tuple[list[Group], tuple[str, ...]]:
    """All groups that may be cut, with the L2 importance of each channel over the coupled layers.

    Returns:
        The groups, and notes on layers that torch-pruning cannot follow, with its reason.
    """
    work = copy.deepcopy(module).eval()
    paths = {layer: path for path, layer in work.named_modules()}
    try:
        graph = _graph(work, example)
    except Exception as error:  # whatever its tracer trips over, the model is left whole
        return [], (f"no channel is cut: torch-pruning cannot trace the model ({_line(error)})",)
    found: list[Group] = []
    notes: list[str] = []
    seen: set[nn.Module] = set()
    for path, layer in work.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer in seen:
            continue
        if _grouped(layer):
            notes.append(f"{path} keeps its channels: it is a grouped convolution")
            continue
        try:
            group = graph.get_pruning_group(layer, _out(layer), list(range(_channels(layer))))
            scores = tp.importance.GroupMagnitudeImportance(p=2)(group)
        except Exception as error:
            notes.append(f"{path} keeps its channels: torch-pruning cannot follow them ({_line(error)})")
            continue
        layers = [dependency.target.module for dependency, _ in group]
        seen |= {other for other in layers if isinstance(other, nn.Conv2d | nn.Linear) and _is_root(other, group)}
        if any(_grouped(other) for other in layers):
            notes.append(f"{path} keeps its channels: a grouped convolution reads them")
        elif scores is not None and len(scores) == _channels(layer):
            values = scores.detach().double().numpy()
            found.append(Group(root=paths[layer], importance=values / max(float(values.mean()), 1e-12)))
    return found, tuple(notes)


def cut(
    module: nn.Module, example: Tensor, groups: Sequence[Group], ratio: float, multiple: int
) -> tuple[Narrow | None, tuple[str, ...]]:
    """Cut the fraction ``ratio`` of all channels, least important first, each group to a multiple.

    A group that cannot be cut without changing more than its channels is left whole and named.

    Returns:
        The operation, None when nothing can be cut, and notes on what was left alone.
    """
    dropped = choose(groups, ratio, multiple)
    if groups and not dropped:
        widest = max(len(group.importance) for group in groups)
        return None, (f"a ratio of {ratio:g} cuts no {multiple} channels from any group; the widest has {widest}",)
    operation = narrow(module, example, dropped)
    if operation is None or faithful(module, operation, example) == "":
        return operation, ()
    safe: dict[str, list[int]] = {}
    notes: list[str] = []
    for root, channels in dropped.items():
        alone = narrow(module, example, {root: channels})
        reason = faithful(module, alone, example) if alone is not None else "torch-pruning refuses"
        if reason:
            notes.append(f"{root} keeps its channels: {reason}")
        else:
            safe[root] = channels
    operation = narrow(module, example, safe)
    if operation is not None and (reason := faithful(module, operation, example)):
        return None, (*notes, f"no channel is cut: together, {reason}")
    return operation, tuple(notes)


def choose(groups: Sequence[Group], ratio: float, multiple: int) -> dict[str, list[int]]:
    """Channels to drop by root: those under one threshold for all groups, counts rounded to the nearest multiple."""
    if not groups:
        return {}
    everything = np.sort(np.concatenate([g.importance for g in groups]))
    threshold = everything[min(round(ratio * len(everything)), len(everything) - 1)]
    dropped: dict[str, list[int]] = {}
    for group in groups:
        total = len(group.importance)
        keep = max(1, round(int((group.importance >= threshold).sum()) / multiple)) * multiple
        if keep < total:
            dropped[group.root] = sorted(int(i) for i in np.argsort(group.importance, kind="stable")[: total - keep])
    return dropped


def narrow(module: nn.Module, example: Tensor, dropped: dict[str, list[int]]) -> Narrow | None:
    """What cutting ``dropped`` keeps of every tensor, read off a copy whose elements are their own indices.

    None when there is nothing to cut, or torch-pruning fails or refuses.
    """
    if not dropped:
        return None
    work = copy.deepcopy(module).eval()
    graph = _graph(work, example)
    shapes = {name: tensor.shape for name, tensor in _tensors(work).items()}
    with torch.no_grad():
        for tensor in _tensors(work).values():
            tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
    sizes = _sizes(work)
    try:
        for root, channels in dropped.items():
            group = graph.get_pruning_group(work.get_submodule(root), _out(work.get_submodule(root)), channels)
            if not graph.check_pruning_group(group):
                return None
            group.prune()
    except Exception:  # the caller names the group
        return None
    kept = {n: _kept(t, shapes[n]) for n, t in _tensors(work).items() if t.shape != shapes[n]}
    now = _sizes(work)
    return Narrow(tensors=kept, attributes={path: now[path] for path in now if now[path] != sizes[path]})


def _kept(codes: Tensor, shape: torch.Size) -> dict[str, list[int]]:
    """The indices kept along each dimension that shrank, from what is left of an array of flat indices."""
    positions = np.unravel_index(codes.detach().numpy().astype(np.int64), tuple(shape))
    kept: dict[str, list[int]] = {}
    for dimension, (before, after) in enumerate(zip(shape, codes.shape, strict=True)):
        if before != after:
            first = np.moveaxis(positions[dimension], dimension, 0).reshape(after, -1)[:, 0]
            kept[str(dimension)] = [int(i) for i in first]
    return kept


def faithful(module: nn.Module, operation: Narrow, example: Tensor) -> str:
    """Why a cut would change more than the channels it takes; empty when it does not.

    The whole model with the dropped channels silenced (zero weights and shifts on every side) must compute what the
    cut model computes, in float64. A norm over channels sees how many there are: there, only the shapes are checked.
    """
    small, whole = (copy.deepcopy(module).double().eval() for _ in range(2))
    small = operation.apply(small)
    inputs = example.double()
    try:
        with torch.no_grad():
            found = flat_tensors(small(inputs))
            plain = flat_tensors(whole(inputs))
    except Exception as error:
        return f"the model does not run without some of them ({_line(error)})"
    if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in plain]:
        return "an output of the model would lose them"
    if any(isinstance(layer, ACROSS_CHANNELS) for layer in small.modules()):
        return ""
    _silence(whole, operation)
    with torch.no_grad():
        expected = flat_tensors(whole(inputs))
    for ours, theirs in zip(found, expected, strict=True):
        if (ours - theirs).abs().max() > TOLERANCE * (1 + theirs.abs().max()):
            return "torch-pruning takes other channels for them further on"
    return ""


def _silence(module: nn.Module, operation: Narrow) -> None:
    """Make the channels that ``operation`` drops do nothing, in place."""
    state = module.state_dict()
    for path, kept in operation.tensors.items():
        for dimension, indices in kept.items():
            dropped = sorted(set(range(state[path].shape[int(dimension)])) - set(indices))
            neutral = 1.0 if path.endswith("running_var") else 0.0
            state[path].index_fill_(int(dimension), torch.tensor(dropped, dtype=torch.long), neutral)


def _graph(work: nn.Module, example: Tensor) -> tp.DependencyGraph:
    for parameter in work.parameters():
        parameter.requires_grad_(True)
    return tp.DependencyGraph().build_dependency(work, example_inputs=example)


def _out(layer: nn.Module) -> object:
    return tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels


def _channels(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _grouped(layer: nn.Module) -> bool:
    """Whether a layer is a grouped convolution that is not depthwise."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def _is_root(layer: nn.Module, group: Iterable[Any]) -> bool:
    """Whether the group cuts this layer's outputs, so that the layer names no group of its own."""
    cuts = (tp.prune_linear_out_channels, tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels)
    return any(d.target.module is layer and d.handler in cuts for d, _ in group)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _sizes(module: nn.Module) -> dict[str, dict[str, object]]:
    return {
        path: {k: getattr(layer, k) for k in SIZES if isinstance(getattr(layer, k, None), int | tuple)}
        for path, layer in module.named_modules()
    }


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
