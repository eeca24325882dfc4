"""One stage alone on one module: no recipe, no gate, no cache."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.data import Samples, Splits
from compress.execution.progress import Progress
from compress.methods.quantization.post_training import ModuleQuantizer
from compress.methods.reparameterisation.branches import fold_branches, has_branches
from compress.models import given
from compress.models.inputs import ModelInputs, as_arrays, as_tensors, call, name_faults
from compress.models.plan import Plan
from compress.stages.base import Artifact, Context, Stage, StageResult
from compress.stages.quantize import integer_recipe
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer
from deploy.engines import inputs
from profiles.device import DeviceProfile
from profiles.errors import UserError


def apply_stage(
    stage: Stage, module: nn.Module, samples: Samples, profile: DeviceProfile, progress: Progress, seed: int = 0
) -> StageResult:
    """Apply a stage that neither trains nor judges to a copy of ``module``.

    Args:
        samples: what the stage looks at; two or more.

    Raises:
        UserError: the module does not take the samples, or the stage cannot be applied to it.
        StageError: it failed otherwise.
    """
    if len(samples) < 2:
        raise UserError(f"samples: two or more are needed; given: {len(samples)}")
    example = as_tensors(samples.load(np.arange(2)).inputs)
    start = copy.deepcopy(module).cpu().eval()
    _check_input(start, example)
    reference = given.register_module(module)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            context = Context(
                task=Classification(),
                data=Splits(train=samples, calibration=samples, validation=samples, test=samples, classes=()),
                teacher=copy.deepcopy(start),
                profile=profile,
                trainer=Trainer(seed, progress),
                progress=progress,
                example=example,
                folder=Path(scratch) / "unfinished",
                outputs=Path(scratch) / "outputs",
                quantization=ModuleQuantizer(integer_recipe(profile), example, samples),
            )
            fold, folded, notes = fold_branches(start, example) if has_branches(start) else (None, start, ())
            for note in notes:
                progress.say(f"  {note}")
            plan = Plan(factory=reference, operations=() if fold is None else (fold,))
            return run_stage(stage, Artifact(plan=plan, module=folded), context, seed)[0]
    finally:
        given.forget(reference)


def _check_input(module: nn.Module, example: ModelInputs) -> None:
    if faults := name_faults(module, example):
        raise UserError(*[f"{type(module).__name__} {fault}" for fault in faults])
    try:
        with torch.no_grad():
            call(module, example)
    except Exception as error:
        fact = f"{type(module).__name__} does not take samples of shape {inputs.describe(as_arrays(example))}"
        raise UserError(f"{fact}: {str(error).splitlines()[0]}") from error
