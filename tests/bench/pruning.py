"""What an allocation by measured latency buys at equal accuracy, after a short recovery; and bias compensation before any.

OpenVINO, fp32, one thread. Ours is asked for a speed; its rivals for a speed that is 1.3 times less, or for the greatest
that they can reach, where that is lower. All are cut from the same network, ranked by the same importance, recovered by
the same training, judged on the same test images, and timed as whole models in turns. Where ours is no less accurate
then, it is that much faster at the same accuracy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from compress.data.base import Samples
from compress.methods.allocation.problem import Allocation
from compress.methods.pruning import budget
from compress.methods.pruning.channels import Group, choose_channels, rank_groups
from compress.methods.pruning.cutting import cut
from compress.pipeline.device_costs import DeviceCostModel
from compress.stages.base import Artifact, Context
from compress.stages.prune import Prune
from deploy.latency import measure_table
from deploy.latency.template import Axis, Template
from profiles.errors import OutOfReachError
from tests.bench.figure import Figure, Table, at_least, at_most
from tests.bench.prunable import SUBJECTS, Subject
from tests.bench.running import MISSING

PARTS = tuple(SUBJECTS)
RATIOS, LEAD, RIVALS, STEPS, LOADED = (0.15, 0.3), 1.25, 1.3, 10, 128


def run(name: str) -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    subject = SUBJECTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        artifact, context = subject.given(Path(scratch))
        figures = _compensated(subject, artifact, context)
        found, remarks = _allocated(subject, artifact, context, Path(scratch))
    return Table(figures=[*figures, *found], remarks=remarks)


def _compensated(subject: Subject, artifact: Artifact, context: Context) -> list[Figure]:
    """Top-1 right after the cut: as it is, with what pruned channels made on average, and with their readers refitted."""
    figures = []
    stages = [
        Prune(compensate=shifted, reconstruct=fitted) for shifted, fitted in ((False, False), (True, False), (True, True))
    ]
    for ratio in RATIOS:
        groups, _ = rank_groups(artifact.module, context.example)
        operation, _ = cut(artifact.module, context.example, groups, ratio, context.profile.channel_multiple)
        assert operation is not None
        made = [stage.apply_cut(artifact, operation, artifact.module, context)[0] for stage in stages]
        as_cut, shifted, fitted = (_top1(each.module, context) for each in made)
        what = f"{subject.name}, {ratio:.0%} of the channels cut by L2, no recovery: top-1"
        told = f"{as_cut:.2f} %, {shifted:.2f} % ({shifted - as_cut:+.2f}), {fitted:.2f} % ({fitted - as_cut:+.2f})"
        named = f"{what} as cut, with bias compensation, and with reconstruction too"
        figures.append(Figure(what=named, asked="shown", measured=told, met=None))
    return figures


@final
@dataclass(frozen=True, kw_only=True)
class Cut:
    """An allocation, and top-1 of the network cut so: at once and after its recovery."""

    chosen: Allocation
    before: float
    after: float


def _allocated(subject: Subject, artifact: Artifact, context: Context, scratch: Path) -> tuple[list[Figure], list[str]]:
    stage = Prune(speed_up=subject.speed_up, precision="fp32", **subject.recovery)
    groups, _ = rank_groups(artifact.module, context.example)
    space, able, _ = stage.search_space(artifact, context, groups)
    chosen = _choices(stage, artifact, context, space, able)
    ms = _ms(space, chosen, context, scratch)
    found = {name: _cut(stage, artifact, context, able, each, name) for name, each in chosen.items()}
    whole, ours = _top1(artifact.module, context), found["latency"]
    training = f"{subject.trained} images, {stage.epochs} epochs"
    what = f"{subject.name} in fp32 on OpenVINO, {subject.speed_up:g}x asked by latency: p50 measured"
    figures = [at_least(what, 0.9 * subject.speed_up, ms["whole"] / ms["latency"])]
    lost = f"its top-1 below the whole network's {whole:.2f} %, {training} of recovery"
    shown = Figure(what=lost, asked="", measured=f"{whole - ours.after:.2f} points", met=None)
    figures.append(shown if subject.most_drop is None else at_most(lost, subject.most_drop, whole - ours.after, " points"))
    for name in list(found)[1:]:
        faster, better = ms[name] / ms["latency"], ours.after - found[name].after
        about = f"allocation by latency against {name}, p50 at no less accuracy"
        told = f"{faster:.2f}x, top-1 {better:+.2f} points"
        figures.append(Figure(what=about, asked=f">= {LEAD:g}x", measured=told, met=faster >= LEAD and better >= 0))
    remarks = [
        f"{name}: {ms['whole'] / ms[name]:.2f}x, top-1 {each.before:.2f} % cut, {each.after:.2f} % recovered; "
        f"blocks taken out: {', '.join(each.chosen.removed) or 'none'}"
        for name, each in found.items()
    ]
    return figures, [*remarks, space.costs.about]


def _choices(
    stage: Prune, artifact: Artifact, context: Context, space: budget.SearchSpace, able: Sequence[Group]
) -> dict[str, Allocation]:
    """Ours, and those that it is compared with, which are asked for ``RIVALS`` times less speed."""
    goal = space.costs.now / stage.speed_up

    def by_size(share: float) -> Allocation:
        dropped = choose_channels(able, 1 - share, space.multiple)
        widths = {g.root: len(g.importance) - len(dropped.get(g.root, [])) for g in able}
        return Allocation(widths=widths, removed=(), importance=0.0, cost=0.0)

    return {
        "latency": stage.allocate(space, artifact, context, able, (), goal)[0],
        "uniform": _evenly(space, able, goal * RIVALS),
        "global magnitude": _widest(space, goal * RIVALS, by_size),
    }


def _evenly(space: budget.SearchSpace, able: Sequence[Group], budget_ms: float) -> Allocation:
    try:
        return budget.allocate_widths(space, able, (), budget_ms, evenly=True)
    except OutOfReachError:
        return Allocation(widths=dict(space.floors), removed=(), importance=0.0, cost=0.0)


def _widest(space: budget.SearchSpace, budget_ms: float, chosen: Callable[[float], Allocation]) -> Allocation:
    """What is chosen of the largest share, by bisection, that takes no longer; of the smallest that was tried, if all do."""
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = chosen(middle)
        if _predicted_ms(space, found) <= budget_ms:
            best, low = found, middle
        else:
            high = middle
    return best or chosen(high)


def _predicted_ms(space: budget.SearchSpace, chosen: Allocation) -> float:
    at = {root: coupling.width for root, coupling in space.couplings.items()} | dict(chosen.widths)
    terms = [t for t in space.costs.terms if t.block not in chosen.removed]
    return space.costs.fixed + sum(t.cost([at[g] for g in t.groups]) for t in terms)


def _ms(space: budget.SearchSpace, chosen: Mapping[str, Allocation], context: Context, scratch: Path) -> dict[str, float]:
    """Measured medians of the whole network and of each allocation, in turns."""
    axes = {name: Axis(width=c.width, sizes=c.sizes) for name, c in space.couplings.items()}
    template, target = Template(onnx.load(str(scratch / "model.onnx")), axes, list(space.blocks)), context.target
    assert isinstance(target, DeviceCostModel)
    clock = target.stopwatch(context.profile.runtimes[0], "fp32")
    variants = [(dict(each.widths), list(each.removed)) for each in chosen.values()]
    times = measure_table.time_whole_models(template, clock, [({}, []), *variants], "bench")
    return dict(zip(("whole", *chosen), (time.p50_ms for time in times), strict=True))


def _cut(stage: Prune, artifact: Artifact, context: Context, able: Sequence[Group], chosen: Allocation, name: str) -> Cut:
    """The network cut as chosen and recovered, both judged on test."""
    module = stage.apply_allocation(artifact, chosen, able, context)[0].module
    before = _top1(module, context)
    stage.recover(module, context, part=name.replace(" ", "-"))
    return Cut(chosen=chosen, before=before, after=_top1(module, context))


def _top1(module: nn.Module, context: Context) -> float:
    """Top-1 on the test images, among the classes that these are of: a network learns from images alone which that are."""
    predict, there = context.trainer.predictor(module), list(_classes(context.data.test))

    def among(inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        (logits,) = predict(inputs)
        kept = np.full_like(logits, -np.inf)
        kept[:, there] = logits[:, there]
        return [kept]

    return float(np.float64(context.task.evaluate(among, context.data.test).value))


def _classes(samples: Samples) -> set[int]:
    return {int(label) for batch in samples.batches(LOADED) for label in batch.targets}
