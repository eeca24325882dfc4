"""What a first convolution that whitens is worth: the student of the CIFAR-10 recipe, labels alone, a few epochs.

2 epochs of 25,000 training images, judged on 10,000 others of them. About 5 minutes of two cores.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from compress.methods.distillation.objective import parse_losses
from compress.models.factory import factory
from compress.recipe.parse import load
from compress.recipe.student import student_plan
from compress.stages.base import Artifact
from compress.stages.distill import Distill
from compress.stages.runner import run_stage
from tests.bench.figure import Figure, Table
from tests.bench.prunable import Some, context_of
from tests.bench.running import MISSING, ROOT

TRAINED, JUDGED, EPOCHS = 25_000, 10_000, 2
VARIANTS = {"as it is built": False, "the first convolution whitens": True}


def run() -> Table:
    if "EDGE_DATA" not in os.environ:
        return Table(figures=[], remarks=[MISSING])
    recipe = load(str(ROOT / "examples" / "cifar10.toml"))
    plan, given = student_plan(recipe.student), recipe.stages[0]
    assert isinstance(given, Distill)
    stage = replace(given, epochs=EPOCHS, losses=parse_losses(["task"]))
    source = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    data = source(path=str(Path(os.environ["EDGE_DATA"]) / "data" / "cifar10"), validation=JUDGED)
    data = replace(data, train=Some(data.train, TRAINED))
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        context = context_of(plan.build().eval(), data, Path(scratch))
        for number, (name, whiten) in enumerate(VARIANTS.items()):
            torch.manual_seed(0)
            start, here = Artifact(plan=plan, module=plan.build()), Path(scratch) / f"variant-{number}"
            result, _ = run_stage(replace(stage, whiten=whiten), start, replace(context, folder=here), 0)
            value = context.task.evaluate(context.trainer.predictor(result.artifact.module), data.validation).value
            figures.append(Figure(what=f"{name}: top-1", asked="", measured=f"{value:.2f} %", met=None))
    about = f"{EPOCHS} epochs of {TRAINED:,} images, one seed; {JUDGED:,} others judge, a standard error of 0.4 points"
    return Table(figures=figures, remarks=[about])
