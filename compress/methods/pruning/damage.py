"""Damage of cuts: the relative change of the model's outputs on calibration samples.

The size of a channel's weights tells which channels of a layer matter. It does not tell which layers do, nor what a whole
block is worth. So each group is cut alone to a few of its widths and each block removed alone, on a copy, and measured on
calibration samples:

    damage = sum over outputs of  || cut - whole ||^2 / || whole - its mean over the samples ||^2

Small damages of independent parts add up; what goes wrong in the same direction adds up by its root; and blocks stand in
for each other, so that each alone seems worth little until few are left. Which of these holds how far is not known
beforehand, so an allocation is proposed under several such sums (``SUMS``), and the proposals are compared by their damage
as a whole, measured again (``joint_damage``). Batch norms take their statistics from the samples themselves, since training
will put them right: so measured, a pruned network before training goes with the same network after it (Li et al. 2020,
"EagleEye").
A network without them has nothing that is put right so easily, and there the layers that read what was cut are fitted first.
Between measured widths damage is linear, and it never falls as a width does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from compress.execution.progress import Progress, count_progress
from compress.methods.pruning.channels import Group, least_important
from compress.methods.pruning.narrowing import build_narrow
from compress.methods.pruning.operations import Narrow, Remove
from compress.methods.pruning.reconstruct import reconstruct
from compress.models.inputs import ModelInputs, call
from compress.models.layers import BATCH_NORMS, flat_tensors

CHANNELS = ((1.0, 1.0, 0.0), (0.5, 1.0, 0.0))
"""To which power damages are added up, where no block can go; ``Damages.weighted`` explains the rest."""
SUMS = tuple((power, rate, crowding) for crowding in (0.0, 1.0, 2.0) for rate in (1.0, 0.5, 0.25) for power in (1.0, 0.5))
"""The same where blocks can go."""
POINTS = 4
"""Widths below its own at which a group is measured."""
MOST_SAMPLES, LEAST_SAMPLES, ELEMENTS = 64, 8, 2**21
"""Samples that damage is measured on: as many as have so many elements together."""
CONSTANT = 1e-6


@final
@dataclass(frozen=True, kw_only=True)
class Damages:
    """Damage of each cut alone.

    Attributes:
        groups: by root and width, 0 at the group's own width.
        blocks: by path, of taking it out.
    """

    groups: Mapping[str, Mapping[int, float]]
    blocks: Mapping[str, float]

    def weighted(self, power: float, rate: float, crowding: float) -> Damages:
        """Raise damages to a power and weight those of blocks, so that they can be summed.

        Args:
            rate: of the blocks' damage that counts: training makes up for more of that.
            crowding: a block counts (n / blocks left of its container's n) ** crowding, the least harmful going first:
                what one of nine does, eight others make up for, and nothing does when it is the last.
        """
        groups = {root: {w: d**power for w, d in curve.items()} for root, curve in self.groups.items()}
        crowds: dict[str, list[str]] = {}
        for path in sorted(self.blocks, key=lambda path: self.blocks[path]):
            crowds.setdefault(path.rpartition(".")[0], []).append(path)
        scarce = {p: (len(crowd) / (len(crowd) - i)) ** crowding for crowd in crowds.values() for i, p in enumerate(crowd)}
        return Damages(groups=groups, blocks={p: (rate * d * scarce[p]) ** power for p, d in self.blocks.items()})


def measure_damages(
    module: nn.Module,
    groups: Sequence[Group],
    widths: Mapping[str, Sequence[int]],
    blocks: Sequence[str],
    samples: ModelInputs,
    progress: Progress | None = None,
) -> Damages:
    """Measure the damage of each group at each of its ``widths`` and of each block; ``samples`` are (samples, ...)."""
    whole = _outputs(module, samples)
    curves: dict[str, dict[int, float]] = {}
    for group in count_progress(progress, "damage of each cut", groups):
        full = len(group.importance)
        measured = {full: 0.0}
        points = _spread(sorted(w for w in widths[group.root] if w < full))[::-1]
        for width in points:
            operation = build_narrow(module, [group], {group.root: least_important(group, width)})
            measured[width] = _damage(_outputs(cut_copy(module, operation, module, samples), samples), whole)
        curves[group.root] = _between(measured, widths[group.root])
    gone: dict[str, float] = {}
    for path in count_progress(progress, "damage of each block", blocks):
        gone[path] = _damage(_outputs(Remove(blocks=(path,)).apply(copy.deepcopy(module)), samples), whole)
    return Damages(groups=curves, blocks=gone)


def cut_copy(module: nn.Module, operation: Narrow, whole: nn.Module, samples: ModelInputs) -> nn.Module:
    """Cut a copy of ``module``; without batch norms, which adapt to the samples, layers are fitted to those of ``whole``."""
    cut = operation.apply(copy.deepcopy(module))
    if not any(isinstance(layer, BATCH_NORMS) for layer in module.modules()):
        reconstruct(whole, cut, operation, [samples], onwards=False)
    return cut


def joint_damage(module: nn.Module, samples: ModelInputs) -> Callable[[nn.Module], float]:
    """Return a function that measures the damage of all cuts at once: of a cut copy of ``module`` against it."""
    whole = _outputs(module, samples)
    return lambda cut: _damage(_outputs(cut, samples), whole)


def damage_sample_count(sample_elements: int) -> int:
    """Compute the number of samples, of so many elements, that damage is measured on."""
    return max(LEAST_SAMPLES, min(MOST_SAMPLES, ELEMENTS // sample_elements))


def _damage(outputs: Sequence[Tensor], whole: Sequence[Tensor]) -> float:
    return sum(float((a - y).square().sum() / _size(y)) for a, y in zip(outputs, whole, strict=True))


def _size(output: Tensor) -> Tensor:
    """Compute how much an output varies over the samples; at least a small part of its own size."""
    return torch.maximum((output - output.mean(0)).square().sum(), CONSTANT * output.square().sum()).clamp(min=1e-30)


def _outputs(module: nn.Module, samples: ModelInputs) -> list[Tensor]:
    work = copy.deepcopy(module).eval()
    for layer in work.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train()
    with torch.no_grad():
        return [y.double() for y in flat_tensors(call(work, samples)) if y.is_floating_point()]


def _spread(widths: Sequence[int]) -> list[int]:
    """At most ``POINTS`` of ``widths``, evenly spread, both ends among them."""
    if len(widths) <= POINTS:
        return list(widths)
    return [widths[round(i * (len(widths) - 1) / (POINTS - 1))] for i in range(POINTS)]


def _between(measured: Mapping[int, float], widths: Sequence[int]) -> dict[int, float]:
    """Interpolate ``measured`` at ``widths``, made monotone: damage never falls as a width does."""
    points = sorted(measured)
    rising = np.maximum.accumulate([measured[point] for point in reversed(points)])[::-1]
    return {width: float(np.interp(width, points, rising)) for width in widths}
