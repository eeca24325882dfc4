"""The runner of stages, which checks each stage's contract."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from compress.models.checkpoint import digest_tensors
from compress.models.inputs import ModelInputs, call
from compress.models.layers import flat_tensors
from compress.stages.base import Artifact, Context, Stage, StageResult
from profiles.errors import UserError


class StageError(RuntimeError):
    """Failure of a stage, or breach of its contract; names the stage, and what ran before it."""


def run_stage(stage: Stage, artifact: Artifact, context: Context, seed: int) -> tuple[StageResult, float]:
    """Run ``stage`` and check its contract: input and teacher unchanged, outputs of the same shapes.

    Returns:
        The result, its ``artifact.stages`` extended, and the seconds it took.

    Raises:
        UserError: the stage cannot be run here, or the user's data or settings made it fail.
        StageError: it failed otherwise; the cause is chained.
    """
    before = f" after {', '.join(artifact.stages)}" if artifact.stages else ""
    stage.requires(artifact, context)
    torch.manual_seed(seed)
    kept = _digests(artifact, context)
    started = time.perf_counter()
    try:
        result = stage.run(artifact, context)
    except UserError as error:
        raise type(error)(*[f"stage {stage.name}{before}: {fault}" for fault in error.faults]) from error
    except Exception as error:
        raise StageError(f"stage {stage.name} failed{before}: {error}") from error
    if _digests(artifact, context) != kept:
        raise StageError(f"stage {stage.name} changed its input or the teacher{before}")
    _check_outputs(stage.name, artifact.module, result.artifact.module, context.example)
    stage_artifact = Artifact(
        plan=result.artifact.plan, module=result.artifact.module.eval(), stages=(*artifact.stages, stage.name)
    )
    return replace(result, artifact=stage_artifact), time.perf_counter() - started


def _check_outputs(stage: str, before: nn.Module, after: nn.Module, example: ModelInputs) -> None:
    with torch.no_grad():
        shapes = [[tuple(t.shape) for t in flat_tensors(call(m.eval(), example))] for m in (before, after)]
    if shapes[0] != shapes[1]:
        raise StageError(f"stage {stage} changed the outputs' shapes from {shapes[0]} to {shapes[1]}")


def _digests(artifact: Artifact, context: Context) -> list[str]:
    return [digest_tensors(module.state_dict()) for module in (artifact.module, context.teacher)]
