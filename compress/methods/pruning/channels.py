"""Groups of coupled channels, and their cut.

The groups are those of torch-pruning's dependency graph (DepGraph, Fang et al. 2023). It works on a copy
here: what it would keep of each tensor is read off and becomes a ``Narrow`` operation, which alone
changes a model. So a replay needs neither torch-pruning nor its decisions.

torch-pruning does not follow every model rightly: a channel that moves through slices, pads and chunks can be
taken for another. So no cut is believed before it was checked (``find_unfaithfulness``); what fails is left whole and named.
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.methods.cost_model import Coupling
from compress.methods.pruning.faithfulness import find_unfaithfulness
from compress.methods.pruning.families import find_families
from compress.methods.pruning.importance import Scorer
from compress.methods.pruning.operations import Narrow

SIZES = (
    *("in_channels", "out_channels", "groups", "num_features", "num_channels"),
    *("in_features", "out_features", "normalized_shape"),
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels of one dependency group.

    Attributes:
        root: path of the layer whose outputs name the group.
        importance: of each channel, mean over the group's layers, scaled to mean 1 (over all groups where the measure is
            comparable between them); shape (channels,).
        family: role of the root and scale of its feature map, such as ``stage/4``: a quarter of the input's height.
        parts: of equal size in a row, which a group norm normalises apart: they lose equally many channels.
        last: whether the channels seem to be an output of the model, and so must stay.
    """

    root: str
    importance: np.ndarray[tuple[int], np.dtype[np.float64]]
    family: str = ""
    parts: int = 1
    last: bool = False

    def step(self, multiple: int) -> int:
        """Channels of which the group has a multiple after a cut."""
        return math.lcm(multiple, self.parts)


def rank_groups(
    module: nn.Module, example: Tensor, measure: Callable[[nn.Module], Scorer] | None = None, *, comparable: bool = False
) -> tuple[list[Group], tuple[str, ...]]:
    """Find all groups that may be cut, with the importance of each channel over the coupled layers.

    Args:
        measure: gives the scorer for a working copy of ``module``; L2 without.
        comparable: whether its scores mean the same in every group.

    Returns:
        The groups, and notes on layers that torch-pruning cannot follow, with its reason.
    """
    work = copy.deepcopy(module).eval()
    paths = {layer: path for path, layer in work.named_modules()}
    try:
        graph = _graph(work, example)
    except Exception as error:  # whatever its tracer trips over, the model is left whole
        return [], (f"no channel is cut: torch-pruning cannot trace the model ({_line(error)})",)
    scorer = tp.importance.GroupMagnitudeImportance(p=2) if measure is None else measure(work)
    families = find_families(work, graph, example)
    groups: list[Group] = []
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
            scores = scorer(group)
        except Exception as error:
            notes.append(f"{path} keeps its channels: torch-pruning cannot follow them ({_line(error)})")
            continue
        layers = [dependency.target.module for dependency, _ in group]
        seen |= {other for other in layers if isinstance(other, nn.Conv2d | nn.Linear) and _is_root(other, group)}
        if any(_grouped(other) for other in layers):
            notes.append(f"{path} keeps its channels: a grouped convolution reads them")
        elif scores is not None and len(scores) == _channels(layer):
            values = scores.detach().double().numpy()
            family, last = families.get(path, "stage"), _is_last(graph, group)
            groups.append(
                Group(root=paths[layer], importance=values, family=family, parts=_parts(layers, len(values)), last=last)
            )
    means = [float(group.importance.mean()) for group in groups]
    if comparable:
        means = [float(np.mean(means))] * len(means)
    scaled = zip(groups, means, strict=True)
    return [replace(g, importance=g.importance / (mean if mean > 0 else 1.0)) for g, mean in scaled], tuple(notes)


def cut(
    module: nn.Module,
    example: Tensor,
    groups: Sequence[Group],
    ratio: float,
    multiple: int,
    ratios: Mapping[str, float] | None = None,
    *,
    by_family: bool = False,
) -> tuple[Narrow | None, tuple[str, ...]]:
    """Cut the fraction ``ratio`` of all channels, least important first, each group to a multiple.

    Args:
        ratios: of families or paths that have a fraction, and so a threshold, of their own.
        by_family: whether the other groups have a threshold for each family, rather than one for all.

    Returns:
        The operation, None when nothing can be cut, and notes on what was left alone.
    """
    named = [(own, members) for own, members in _by_ratio(groups, ratio, ratios or {}, by_family=by_family) if own]
    able, notes = separable_groups(module, example, [group for _, members in named for group in members], multiple)
    dropped: dict[str, list[int]] = {}
    for own, members in named:
        dropped |= choose_channels([group for group in members if group in able], own, multiple)
    if dropped:
        operation, more_notes = cut_channels(module, example, dropped)
        return operation, (*notes, *more_notes)
    left = able or ([] if notes else groups)
    if left:
        widest = max(len(group.importance) for group in left)
        notes = (*notes, f"a ratio of {ratio:g} cuts no {multiple} channels from any group; the widest has {widest}")
    return None, notes


def cut_channels(
    module: nn.Module, example: Tensor, dropped: Mapping[str, list[int]]
) -> tuple[Narrow | None, tuple[str, ...]]:
    """Cut channels by root. A group that cannot be cut without changing more than its channels is left whole and named."""
    proof = _Proof(module, example, dropped)
    proof.add(list(dropped))
    return proof.operation, proof.notes


def separable_groups(
    module: nn.Module, example: Tensor, groups: Sequence[Group], multiple: int
) -> tuple[list[Group], tuple[str, ...]]:
    """Select the groups that can lose ``multiple`` channels and nothing else, with notes on the others."""
    wide = {g.root: g for g in groups if len(g.importance) > g.step(multiple)}
    proof = _Proof(module, example, {r: least_important(g, _most(g, multiple)) for r, g in wide.items()})
    proof.add([root for root, group in wide.items() if not group.last])
    for root in (root for root, group in wide.items() if group.last):
        proof.add_alone(root)
    return [group for root, group in wide.items() if root in proof.able], proof.notes


def least_important(group: Group, keep: int) -> list[int]:
    """Return the least important channels of a group, in order: those that go when ``keep`` stay."""
    total = len(group.importance)
    parts = group.parts if keep % group.parts == 0 else 1
    size = total // parts
    order = np.argsort(group.importance.reshape(parts, size), axis=1, kind="stable")[:, : size - keep // parts]
    return sorted((order + size * np.arange(parts)[:, None]).ravel().tolist())


def find_couplings(module: nn.Module, example: Tensor, groups: Sequence[Group]) -> dict[str, Coupling]:
    """Find the sizes that shrink with each group, by root; groups that torch-pruning cannot cut are left out."""
    work = copy.deepcopy(module).eval()
    graph = _graph(work, example)
    result: dict[str, Coupling] = {}
    for group in groups:
        before = {name: tensor.shape for name, tensor in _tensors(work).items()}
        layer = work.get_submodule(group.root)
        try:
            graph.get_pruning_group(layer, _out(layer), [0]).prune()
        except Exception:  # it keeps its width
            continue
        after = {name: tensor.shape for name, tensor in _tensors(work).items()}
        sizes = {
            name: {d: old - new for d, (old, new) in enumerate(zip(shape, after[name], strict=True)) if old != new}
            for name, shape in before.items()
        }
        changed = {name: by_dimension for name, by_dimension in sizes.items() if by_dimension}
        result[group.root] = Coupling(width=len(group.importance), sizes=changed)
    return result


def match_name(names: Sequence[str], group: Group) -> str | None:
    """Return the first of ``names`` that means a group: its family or a pattern of its root's path."""
    return next((n for n in names if n == group.family or fnmatch.fnmatchcase(group.root, n)), None)


def _by_ratio(
    groups: Sequence[Group], ratio: float, ratios: Mapping[str, float], *, by_family: bool
) -> Iterable[tuple[float, list[Group]]]:
    """Collect groups that share a threshold, with their fraction."""
    sets: dict[tuple[str | None, str], list[Group]] = {}
    for group in groups:
        name = match_name(list(ratios), group)
        sets.setdefault((name, group.family if by_family and name is None else ""), []).append(group)
    return [(ratio if name is None else ratios[name], members) for (name, _), members in sets.items()]


def _most(group: Group, multiple: int) -> int:
    """Return the greatest width under a group's own that it may have after a cut of at least ``multiple``."""
    step = group.step(multiple)
    return max(step, (len(group.importance) - multiple) // group.parts * group.parts)


@final
class _Proof:
    """Cuts that are proved together, and those that cannot be, with the reason.

    Attributes:
        able: roots that can be cut, all together.
        operation: their cut; None when there are none.
    """

    def __init__(self, module: nn.Module, example: Tensor, dropped: Mapping[str, list[int]]) -> None:
        self._module, self._example, self._dropped = module, example, dropped
        self._reasons: dict[str, str] = {}
        self.able: list[str] = []
        self.operation: Narrow | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the groups left whole, in the order of the cuts."""
        return tuple(f"{root} keeps its channels: {self._reasons[root]}" for root in self._dropped if root in self._reasons)

    def add(self, roots: Sequence[str]) -> None:
        """Add those of ``roots`` that can be cut beside all others: all at once, where that fails by halves."""
        self._bisect(*self._taken(roots))

    def add_alone(self, root: str) -> None:
        """Add a root that seems not to be able: it is first tried alone, as the model is quick to fail."""
        if reason := self._why_not([root])[0]:
            self._reasons[root] = reason
        else:
            self._bisect([root])

    def _taken(self, roots: Sequence[str]) -> tuple[list[str], _Probe | None]:
        """Return the roots that torch-pruning takes, tried in a row, and a copy without them; half a cut spoils a copy."""
        taken: list[str] = []
        probe: _Probe | None = None
        for root in roots:
            if probe is None:
                probe = _Probe(self._module, self._example)
                for other in taken:
                    probe.cut(other, self._dropped[other])
            if probe.cut(root, self._dropped[root]):
                taken.append(root)
            else:
                self._reasons[root] = probe.reason
                probe = probe if probe.sound else None
        return taken, probe

    def _bisect(self, roots: Sequence[str], probe: _Probe | None = None) -> None:
        """Add roots that can be cut. ``probe``: a copy without them, where there is one."""
        if not roots:
            return
        reason, operation = self._why_not([*self.able, *roots], probe)
        if not reason:
            self.able, self.operation = [*self.able, *roots], operation
        elif len(roots) == 1:
            alone = self._why_not(roots)[0] if self.able else reason
            self._reasons[roots[0]] = alone or f"beside the others that are cut, {reason}"
        else:
            half = len(roots) // 2
            self._bisect(roots[:half])
            self._bisect(roots[half:])

    def _why_not(self, roots: Sequence[str], probe: _Probe | None = None) -> tuple[str, Narrow | None]:
        """Return the reason why roots cannot be cut together, empty when they can; and their cut."""
        if probe is None:
            probe = _Probe(self._module, self._example)
            if not all(probe.cut(root, self._dropped[root]) for root in roots):
                return probe.reason, None
        try:
            operation = probe.operation()
        except ValueError as error:
            return f"torch-pruning does more than to slice ({_line(error)})", None
        return find_unfaithfulness(self._module, operation, self._example), operation


def choose_channels(groups: Sequence[Group], ratio: float, multiple: int) -> dict[str, list[int]]:
    """Choose the channels to drop by root: those under one threshold for all groups, counts rounded to a multiple."""
    if not groups:
        return {}
    everything = np.sort(np.concatenate([g.importance for g in groups]))
    threshold = everything[min(round(ratio * len(everything)), len(everything) - 1)]
    dropped: dict[str, list[int]] = {}
    for group in groups:
        total = len(group.importance)
        step = group.step(multiple)
        keep = max(1, round(int((group.importance >= threshold).sum()) / step)) * step
        if keep < total:
            dropped[group.root] = least_important(group, keep)
    return dropped


def build_narrow(module: nn.Module, example: Tensor, dropped: Mapping[str, list[int]]) -> Narrow | None:
    """Build the operation that drops channels by root; None when there is nothing to cut, or torch-pruning refuses."""
    if not dropped:
        return None
    probe = _Probe(module, example)
    try:
        return probe.operation() if all(probe.cut(root, channels) for root, channels in dropped.items()) else None
    except ValueError:  # it did more than to slice
        return None


def build_narrows(module: nn.Module, example: Tensor, root: str, dropped: Sequence[list[int]]) -> list[Narrow | None]:
    """Build the operations of several cuts of one group, each of which holds the one before it."""
    probe = _Probe(module, example)
    operations: list[Narrow | None] = []
    left = list(range(_channels(module.get_submodule(root))))
    for channels in dropped:
        more = [position for position, channel in enumerate(left) if channel in set(channels)]
        operations.append(probe.operation() if probe.cut(root, more) else None)
        left = [channel for channel in left if channel not in set(channels)]
    return operations


@final
class _Probe:
    """A copy whose elements are their own indices, so that what is left of it after cuts tells what they keep.

    Attributes:
        reason: why the last cut that was refused was; empty before.
        sound: whether each cut was made whole or not at all.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self._work = copy.deepcopy(module).eval()
        self._graph = _graph(self._work, example)
        self._shapes = {name: tensor.shape for name, tensor in _tensors(self._work).items()}
        with torch.no_grad():
            for tensor in _tensors(self._work).values():
                tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        self._sizes = _sizes(self._work)
        self.reason, self.sound = "", True

    def cut(self, root: str, channels: list[int]) -> bool:
        """Cut channels, counted among those that are left; return whether torch-pruning could."""
        layer = self._work.get_submodule(root)
        try:
            group = self._graph.get_pruning_group(layer, _out(layer), channels)
            if not self._graph.check_pruning_group(group):
                self.reason = "torch-pruning refuses: with them a layer would lose all of its channels"
                return False
        except Exception as error:
            self.reason = f"torch-pruning cannot follow them ({_line(error)})"
            return False
        try:
            group.prune()
        except Exception as error:
            self.reason, self.sound = f"torch-pruning cannot cut them ({_line(error)})", False
        return self.sound

    def operation(self) -> Narrow:
        """Return all cuts so far as one operation."""
        shapes, now = self._shapes, _sizes(self._work)
        kept = {n: _kept(t, shapes[n]) for n, t in _tensors(self._work).items() if t.shape != shapes[n]}
        return Narrow(tensors=kept, attributes={path: now[path] for path in now if now[path] != self._sizes[path]})


def _kept(codes: Tensor, shape: torch.Size) -> dict[str, list[int]]:
    """Decode the indices kept along each dimension that shrank, from the remaining flat indices of an array.

    Raises:
        ValueError: what is left are not slices of the array.
    """
    left = codes.detach().numpy().astype(np.int64)
    kept: dict[str, list[int]] = {}
    for dimension, (before, after) in enumerate(zip(shape, codes.shape, strict=True)):
        if before != after:
            stride = math.prod(shape[dimension + 1 :])
            kept[str(dimension)] = (np.moveaxis(left, dimension, 0).reshape(after, -1)[:, 0] // stride % before).tolist()
    indices = [kept.get(str(d), range(size)) for d, size in enumerate(shape)]
    places = np.zeros((), dtype=np.int64)
    for size, along in zip(shape, indices, strict=True):
        places = places[..., None] * size + np.asarray(along, dtype=np.int64)
    ascending = all(a < b for along in kept.values() for a, b in pairwise(along))
    if not ascending or not np.array_equal(places, left):
        raise ValueError(f"what is left of an array of {tuple(shape)} are not slices of it")
    return kept


def _graph(work: nn.Module, example: Tensor) -> tp.DependencyGraph:
    for parameter in work.parameters():
        parameter.requires_grad_(True)
    return tp.DependencyGraph().build_dependency(work, example_inputs=example)


def _out(layer: nn.Module) -> object:
    return tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels


def _channels(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _grouped(layer: nn.Module) -> bool:
    """Whether a layer is a grouped convolution that is not depthwise."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def _is_root(layer: nn.Module, group: Iterable[Any]) -> bool:
    """Whether the group cuts this layer's outputs, so that the layer names no group of its own."""
    cuts = (tp.prune_linear_out_channels, tp.prune_conv_out_channels, tp.prune_depthwise_conv_out_channels)
    return any(d.target.module is layer and d.handler in cuts for d, _ in group)


def _is_last(graph: tp.DependencyGraph, group: Iterable[Any]) -> bool:
    """Whether nothing seems to read some of what the group's layers give: it is an output of the model."""
    return any(not d.target.outputs and graph.is_out_channel_pruning_fn(d.handler) for d, _ in group)


def _parts(layers: Iterable[nn.Module], width: int) -> int:
    """Into how many parts group norms divide channels."""
    norms = [layer for layer in layers if isinstance(layer, nn.GroupNorm) and layer.num_channels == width]
    parts = math.lcm(*(norm.num_groups for norm in norms))
    return parts if width % parts == 0 else 1


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _sizes(module: nn.Module) -> dict[str, dict[str, object]]:
    """Sizes that each module holds itself; a property follows the modules it is read from."""
    return {
        path: {k: vars(layer)[k] for k in SIZES if isinstance(vars(layer).get(k), int | tuple)}
        for path, layer in module.named_modules()
    }


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
