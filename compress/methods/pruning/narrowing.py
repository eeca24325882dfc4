"""Cuts as operations: from the channels that groups lose to what each tensor keeps and each module states.

Channels are cut as ``Narrow`` operations, which alone change a model, so a replay needs nothing of how they were found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compress.methods.pruning.operations import Narrow

if TYPE_CHECKING:
    from compress.methods.pruning.channels import Group

Stated = tuple[str, str, int | None]
"""A number that a module states about itself: its path, the attribute, and the place if that is a tuple."""
Dropped = Mapping[str, list[int]]
"""Channels that go, by the root of their group."""


def build_narrow(module: nn.Module, groups: Sequence[Group], dropped: Dropped) -> Narrow:
    """Build the operation that drops channels by root.

    Args:
        module: whole; groups of what it lacks by now are passed over.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    gone: dict[str, dict[int, set[int]]] = {}
    fewer: dict[Stated, Counter[bytes]] = {}
    convolutions: Counter[str] = Counter()
    for group in groups:
        lost = dropped.get(group.root, [])
        if not lost:
            continue
        for slices in group.slices:
            if slices.tensor in tensors:
                at = gone.setdefault(slices.tensor, {}).setdefault(slices.axis, set())
                at |= set(slices.indices[lost].ravel().tolist())
                if slices.groups:
                    path = slices.tensor.rpartition(".")[0]
                    convolutions[path] += len(lost) * slices.indices.shape[1]
        for count in group.counts:
            axes = fewer.setdefault((count.path, count.attribute, count.place), Counter())
            axes[count.axis] += int(count.each[lost].sum())
    kept = {
        name: {
            str(axis): [i for i in range(tensors[name].shape[axis]) if i not in at] for axis, at in sorted(by_axis.items())
        }
        for name, by_axis in gone.items()
        if any(by_axis.values())
    }
    less = {stated: max(axes.values()) for stated, axes in fewer.items()}
    return Narrow(tensors=kept, attributes=_attributes(module, tensors, kept, convolutions, less))


def _attributes(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    kept: Mapping[str, Mapping[str, list[int]]],
    convolutions: Mapping[str, int],
    fewer: Mapping[Stated, int],
) -> dict[str, dict[str, Any]]:
    """Collect what modules state about themselves after a cut and did not before."""
    stated: dict[str, dict[str, Any]] = {}
    for path in dict.fromkeys(name.rpartition(".")[0] for name in kept):
        layer = module.get_submodule(path)
        names = {leaf: f"{path}.{leaf}" if path else leaf for leaf in ("weight", "bias", "running_mean")}
        shapes = {
            leaf: [len(kept.get(name, {}).get(str(d), range(size))) for d, size in enumerate(tensors[name].shape)]
            for leaf, name in names.items()
            if name in tensors
        }
        sizes = _sizes(layer, shapes, convolutions.get(path, 0))
        changed = {name: value for name, value in sizes.items() if name in vars(layer) and vars(layer)[name] != value}
        if changed:
            stated[path] = changed
    for (path, attribute, place), less in fewer.items():
        if not less or path not in dict(module.named_modules()):
            continue
        old = stated.get(path, {}).get(attribute, getattr(module.get_submodule(path), attribute))
        new = old - less if place is None else tuple(v - less if i == place else v for i, v in enumerate(old))
        stated.setdefault(path, {})[attribute] = new
    return stated


def _sizes(layer: nn.Module, shapes: Mapping[str, list[int]], fewer_outputs: int) -> dict[str, Any]:
    """Work out the sizes of a layer from the shapes of its tensors."""
    weight = shapes.get("weight", [])
    if isinstance(layer, _ConvNd):
        groups = layer.groups * weight[0] // (weight[0] + fewer_outputs)
        made, read = (1, 0) if isinstance(layer, _ConvTransposeNd) else (0, 1)
        sizes = {"out_channels": weight[made], "in_channels": weight[read], "groups": groups}
        grouped = "out_channels" if made else "in_channels"
        return {**sizes, grouped: sizes[grouped] * groups}
    if isinstance(layer, nn.Linear):
        return {"out_features": weight[0], "in_features": weight[1]}
    if isinstance(layer, _NormBase):
        return {"num_features": next(iter(shapes.values()))[0]} if shapes else {}
    if isinstance(layer, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(weight)}
    if isinstance(layer, nn.Embedding):
        return {"embedding_dim": weight[1]}
    return {}
