"""Pruning before any training: what an allocation by measured latency buys at equal kept importance, and bias compensation.

ResNet-56 on CIFAR-10 from its public checkpoint, OpenVINO, fp32, one thread; whole models are timed in turns.
"""

from __future__ import annotations

import copy
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from compress import budget
from compress.allocation import Allocation
from compress.channels import Group, choose, cut, least, rank_groups
from compress.compensate import compensate
from compress.data import Splits
from compress.factories import factory
from compress.progress import StreamProgress
from compress.stage import Artifact, Context
from compress.stages.prune import Prune, inputs
from compress.surgery import Plan
from compress.target import EngineTarget
from compress.tasks.classification import Classification
from compress.tensors import load_foreign, load_into
from compress.training import Trainer
from deploy import latency
from deploy.devices import device
from deploy.engines import engine
from deploy.export import capture, to_onnx
from deploy.template import Axis, Template
from profiles.device import load
from profiles.errors import UserError
from tests.bench.figure import Figure, Table, at_least
from tests.bench.running import MISSING

ROOT = Path(__file__).parent.parent.parent
SPEED_UP, RATIOS, IMAGES, STEPS = 2.0, (0.15, 0.3), 2000, 12


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    with tempfile.TemporaryDirectory() as scratch:
        artifact, context = _given(Path(scratch))
        return Table(figures=[*_compensated(artifact, context), *_allocated(artifact, context, Path(scratch))])


def _given(scratch: Path) -> tuple[Artifact, Context]:
    where = Path(os.environ["EDGE_DATA"])
    source: Callable[..., Splits] = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    data = source(path=str(where / "data" / "cifar10"), held_out_of="test", validation=IMAGES)
    plan = Plan(factory="compress.models:resnet", arguments={"blocks": 9, "shortcut": "pad"})
    module = plan.build()
    checkpoint = where / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"
    load_into(module, load_foreign(checkpoint), checkpoint.name)
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    onnx.save(to_onnx(capture(module, [example])), str(scratch / "model.onnx"))
    profile, silent = replace(load("cpu"), threads=1), StreamProgress(io.StringIO())
    versions = {r.engine: engine(r.engine).affinity().version for r in profile.runtimes}
    here = ({"url": "local"}, profile, versions, scratch / "latency", silent)
    target = EngineTarget(lambda: scratch / "model.onnx", device("local"), *here)

    def none(module: object, ranges: str) -> None:
        raise AssertionError("nothing is quantised here")

    context = Context(
        task=Classification(),
        data=data,
        teacher=module,
        profile=profile,
        trainer=Trainer(0, silent),
        example=example,
        folder=scratch,
        outputs=scratch,
        quantization=none,  # type: ignore[arg-type]
        target=target,
    )
    return Artifact(plan=plan, module=module.eval()), context


def _compensated(artifact: Artifact, context: Context) -> list[Figure]:
    """Top-1 right after the cut, with and without what the pruned channels contributed on average."""
    figures = []
    for ratio in RATIOS:
        groups, _ = rank_groups(artifact.module, context.example)
        operation, _ = cut(artifact.module, context.example, groups, ratio, context.profile.channel_multiple)
        assert operation is not None
        top1 = []
        for on in (False, True):
            module = operation.apply(copy.deepcopy(artifact.module))
            if on:
                compensate(artifact.module, module, operation, inputs(context))
            top1.append(context.task.evaluate(context.trainer.predictor(module), context.data.validation).value)
        what = f"ResNet-56, {ratio:.0%} of the channels cut by L2, no recovery: top-1 without and with bias compensation"
        told = f"{top1[0]:.2f} %, {top1[1]:.2f} % ({top1[1] - top1[0]:+.2f})"
        figures.append(Figure(what=what, asked="shown", measured=told, met=None))
    return figures


def _allocated(artifact: Artifact, context: Context, scratch: Path) -> list[Figure]:
    """Measured speed of three allocations that keep the same importance as the one by latency."""
    shallow = Prune(speed_up=SPEED_UP, precision="fp32", depth=False)
    groups, _ = rank_groups(artifact.module, context.example)
    room, able, _ = shallow.room(artifact, context, groups)
    by_latency = budget.choose(room, able, (), room.costs.now / SPEED_UP, evenly=False)
    goal = by_latency.importance
    counted = replace(shallow, by="macs").room(artifact, context, groups)[0]
    found: dict[str, Mapping[str, int]] = {
        "latency": by_latency.widths,
        "MACs": _cheapest(counted, able, goal, evenly=False).widths,
        "uniform": _cheapest(room, able, goal, evenly=True).widths,
        "global magnitude": _global(able, goal, context.profile.channel_multiple),
    }
    axes = {name: Axis(width=c.width, sizes=c.sizes) for name, c in room.couplings.items()}
    template = Template(onnx.load(str(scratch / "model.onnx")), axes)
    target = context.target
    assert isinstance(target, EngineTarget)
    clock = target.stopwatch(context.profile.runtimes[0], "fp32")
    times = latency.whole_times(template, clock, [({}, []), *((widths, []) for widths in found.values())])
    ms = dict(zip(("whole", *found), (t.p50_ms for t in times), strict=True))
    total = sum(float(group.importance.sum()) for group in able)
    predicted = room.costs.now / (room.costs.fixed + by_latency.cost)
    what = f"ResNet-56 fp32 on OpenVINO, {SPEED_UP:g}x asked, {100 * goal / total:.0f} % of importance kept: p50 measured"
    told = f"{ms['whole'] / ms['latency']:.2f}x ({predicted:.2f}x predicted)"
    figures = [Figure(what=what, asked=f">= {0.9 * SPEED_UP:g}x", measured=told, met=ms["whole"] / ms["latency"] >= 1.8)]
    for name in ("MACs", "uniform", "global magnitude"):
        about = f"the same importance kept: allocation by latency against {name}, p50"
        asked = 1.25 if name != "MACs" else 1.0
        figures.append(at_least(about, asked, ms[name] / ms["latency"]))
    return figures


def _cheapest(room: budget.Room, groups: Sequence[Group], importance: float, *, evenly: bool) -> Allocation:
    """The allocation of least cost that keeps at least so much importance, by bisection of the budget."""
    low, high = 0.0, room.costs.now * 1.001
    best = budget.choose(room, groups, (), high, evenly=evenly)
    for _ in range(STEPS):
        middle = (low + high) / 2
        try:
            found = budget.choose(room, groups, (), middle, evenly=evenly)
        except UserError:
            low = middle
            continue
        if found.importance >= importance:
            best, high = found, middle
        else:
            low = middle
    return best


def _global(groups: Sequence[Group], importance: float, multiple: int) -> dict[str, int]:
    """Widths under one threshold for all channels, the largest ratio that keeps so much importance."""
    best: dict[str, int] = {}
    for ratio in np.linspace(0.0, 0.95, 96):
        dropped = choose(groups, float(ratio), multiple)
        widths = {g.root: len(g.importance) - len(dropped.get(g.root, [])) for g in groups}
        kept = sum(float(np.delete(g.importance, least(g, widths[g.root])).sum()) for g in groups)
        if kept >= importance:
            best = widths
    return best
