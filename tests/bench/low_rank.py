"""Low-rank factors of a small ViT that is trained here, on digits: half of its linear parameters, and what is faster.

OpenVINO, fp32, one thread; whole models are timed in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.data.digits import digits
from compress.models.plan import Plan
from compress.pipeline.device_costs import DeviceCostModel
from compress.stages.base import Artifact, Context, StageResult
from compress.stages.low_rank import LowRank
from compress.stages.runner import run_stage
from deploy.export.to_onnx import capture, to_onnx
from deploy.latency import measure_table
from tests.bench.figure import Figure, Table, at_most
from tests.bench.int8_subjects import ADAM, trained
from tests.bench.prunable import context_of
from tests.bench.small_models import vit

EPOCHS, MOST_DROP, FASTER = 15, 0.6, 1.02
PLAN = Plan(factory="tests.bench.small_models:vit")
SETTINGS = {"batch_size": 64, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.02, "epochs": EPOCHS}


def run() -> Table:
    splits = digits()
    module = trained("vit", vit, ADAM, splits)
    with tempfile.TemporaryDirectory() as scratch:
        context = context_of(module, splits, Path(scratch))
        half = {"by": "macs", "keep": 0.5, "largest_error": 0.95, **SETTINGS}
        stages = {
            "half, without features": LowRank(features=0.0, **half),  # type: ignore[arg-type]
            "half": LowRank(features=1.0, **half),  # type: ignore[arg-type]
            "half, with the bound too": LowRank(features=1.0, perturbation=1.0, **half),  # type: ignore[arg-type]
            "what is faster": LowRank(by="latency", precision="fp32", largest_error=0.95, features=1.0, **SETTINGS),  # type: ignore[arg-type]
        }
        found = {name: _ran(stage, module, context, name) for name, stage in stages.items()}
        return _told(module, found, context)


def _ran(stage: LowRank, module: nn.Module, context: Context, name: str) -> StageResult:
    own = replace(context, folder=context.folder / name.replace(" ", "-"))
    return run_stage(stage, Artifact(plan=PLAN, module=module), own, 0)[0]


def _told(module: nn.Module, found: Mapping[str, StageResult], context: Context) -> Table:
    modules = {"whole": module, **{name: result.artifact.module for name, result in found.items()}}
    ms, top1 = _ms(modules, context), {name: _top1(each, context) for name, each in modules.items()}
    figures = []
    for name in [name for name in found if name.startswith("half")]:
        share = _linear(modules[name]) / _linear(module)
        what = f"ViT, linear parameters {share:.2f} of {_linear(module)} ({name}): top-1 lost after {EPOCHS} epochs"
        figures.append(at_most(what, MOST_DROP, top1["whole"] - top1[name], " points"))
        told = f"{ms['whole'] / ms[name]:.2f}x"
        figures.append(Figure(what=f"its p50 against the whole ({name})", asked="", measured=told, met=None))
    chosen = found["what is faster"].choices
    drop, faster = top1["whole"] - top1["what is faster"], ms["whole"] / ms["what is faster"]
    told = f"{len(chosen)} layers factorised, {faster:.2f}x, {drop:.2f} points lost" if chosen else "not applied"
    asked = f">= {FASTER:g}x or not applied"
    met = not chosen or faster >= FASTER
    figures.append(Figure(what="ViT, only what is measured to be faster", asked=asked, measured=told, met=met))
    return Table(figures=figures, remarks=[f"the whole network: top-1 {top1['whole']:.2f} %, {ms['whole']:.3f} ms"])


def _ms(modules: Mapping[str, nn.Module], context: Context) -> dict[str, float]:
    target = context.target
    assert isinstance(target, DeviceCostModel)
    clock = target.stopwatch(context.profile.runtimes[0], "fp32")
    makers = {name: (lambda m=each: _fixed(to_onnx(capture(m, [context.example])))) for name, each in modules.items()}  # type: ignore[misc]
    return {name: time.p50_ms for name, time in clock.times(makers, measure_table.WHOLE_PASSES).items()}


def _fixed(model):  # type: ignore[no-untyped-def]
    """The model for one sample at a time."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def _linear(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def _top1(module: nn.Module, context: Context) -> float:
    with torch.no_grad():
        return context.task.evaluate(context.trainer.predictor(module), context.data.test).value
