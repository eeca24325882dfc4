"""Widths that a model's code takes from one another: those of heads and of the stream beside them.

``x.reshape(samples, tokens, channels)`` behind an attention has the channels that the attention reads. So heads and stream,
which are groups of their own, are cut to the same width or not at all: where neither could be cut as asked, the stream is
cut to the width of the heads that stay, whatever multiple that is of. The heads of other blocks on that stream go along.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from compress.methods.pruning.channels import Group

NEAR, MOST = 2, 4
"""Channels more or fewer than a group's share that are looked at, and widths that are tried."""
Made = frozenset[tuple[str, int]]
"""What an axis is made of: groups by root, and how often each channel of it is there."""


def matching_widths(
    module: nn.Module, groups: Sequence[Group], path: str, widths: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Yield widths with which axes inside a module, as large as each other before, are so again.

    Args:
        groups: that could not be cut alone, or not by a multiple.
        path: of the module whose code failed.
        widths: of each group, as asked; the widest units, which can be matched least well, keep theirs.

    Returns:
        Widths by root of the groups that make such axes; nearest to equal shares first.
    """
    own = {group.root: group for group in groups}
    for size, made in _alike(module, groups, path).items():
        coarse = max(made, key=lambda each: max(count for _, count in each))
        if len(coarse) > 1:
            continue
        ((root, count),) = coarse
        width = widths[root] * count
        for fine in made - {coarse}:
            if root in dict(fine) or not 0 < width < size:
                continue
            found = sorted(_splits(fine, own, width, size), key=lambda each: each[0])
            for _, others in found[:MOST]:
                yield {root: widths[root], **others, **dict(_heads_elsewhere(module, groups, path, fine, width))}


def _heads_elsewhere(
    module: nn.Module, groups: Sequence[Group], path: str, stream: Made, width: int
) -> Iterator[tuple[str, int]]:
    """Yield the widths of heads in other modules of the same code on a stream of ``width``, where whole heads make that."""
    kind = type(module.get_submodule(path))
    for other, part in module.named_modules():
        if type(part) is not kind or other == path:
            continue
        for made in _alike(module, groups, other).values():
            for heads in made - {stream} if stream in made else ():
                ((root, count), *more) = heads
                if not more and width % count == 0:
                    yield root, width // count


def _alike(module: nn.Module, groups: Sequence[Group], path: str) -> dict[int, set[Made]]:
    """List axes of a module's tensors that groups alone make, by size, where groups differ between axes of one size."""
    sizes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters() if name.startswith(f"{path}.")}
    axes: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    filled: dict[tuple[str, int], int] = defaultdict(int)
    for group in groups:
        for slices in group.slices:
            if slices.tensor in sizes:
                at = (slices.tensor, slices.axis)
                axes[at].add((group.root, slices.indices.shape[1]))
                filled[at] += slices.indices.size
    made: dict[int, set[Made]] = defaultdict(set)
    for (name, axis), parts in axes.items():
        if filled[name, axis] == sizes[name][axis]:
            made[sizes[name][axis]].add(frozenset(parts))
    return {size: each for size, each in made.items() if len(each) > 1}


def _splits(made: Made, groups: Mapping[str, Group], width: int, size: int) -> Iterator[tuple[float, dict[str, int]]]:
    """Yield widths of groups that make an axis of ``width``, with how far they are from equal shares."""
    roots = sorted(made)
    shares = [len(groups[root].importance) * width / size for root, _ in roots]
    near = [
        [n for n in range(int(share) - NEAR, int(share) + NEAR + 2) if n > 0 and n % groups[root].parts == 0]
        for (root, _), share in zip(roots, shares, strict=True)
    ]
    for counts in itertools.product(*near):
        if sum(n * count for n, (_, count) in zip(counts, roots, strict=True)) == width:
            far = sum(abs(n - share) for n, share in zip(counts, shares, strict=True))
            yield far, {root: n for n, (root, _) in zip(counts, roots, strict=True)}
