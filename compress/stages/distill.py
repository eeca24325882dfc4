"""distill: a smaller student learns from the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from annotated_types import Ge, Gt

from compress.stage import Artifact, Context, StageResult, TrainedStage, copied


@final
@dataclass(frozen=True, kw_only=True)
class Distill(TrainedStage):
    """Train the student on the teacher's outputs and feature maps."""

    name = "distill"

    epochs: Annotated[int, Ge(1)] = 30
    learning_rate: Annotated[float, Gt(0)] = 0.1

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        module = copied(artifact)
        self.train(module, context)
        return StageResult(artifact=Artifact(plan=artifact.plan, module=module, stages=artifact.stages))
