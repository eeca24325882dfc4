"""quantize: quantisation-aware training under the distillation loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt

from compress.objective import parse_losses
from compress.stage import Artifact, Context, Losses, StageResult, TrainedStage, copied
from profiles.device import DeviceProfile
from profiles.errors import UserError

LOSSES = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}])


@final
@dataclass(frozen=True, kw_only=True)
class QuantizeStage(TrainedStage):
    """Fake-quantise weights and activations where the first integer runtime wants them, and train through it.

    Ranges start from ``calib`` on the calibration split; scales are learned (Polino et al. 2018's quantized
    distillation, with learned step sizes).

    Attributes:
        ranges: which range a tensor's scale starts from.
    """

    name = "quantize"

    ranges: Literal["minmax", "percentile", "mse"] = "mse"
    epochs: Annotated[int, Ge(0)] = 8
    learning_rate: Annotated[float, Gt(0)] = 0.005
    losses: Losses = LOSSES

    def requires(self, artifact: Artifact, context: Context) -> None:
        if artifact.quantized:
            raise UserError("stage quantize cannot follow quantize: the model has its ranges already")
        if integer_recipe(context.profile) is None:
            raise UserError(
                f"stage quantize: no runtime of device {context.profile.name} runs int8; drop the stage for this device"
            )

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"recipe": integer_recipe(profile)}

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        operation = context.quantization(artifact.module, self.ranges)
        module = operation.apply(copied(artifact))
        self.train(module, context)
        notes = tuple(f"{layer} stays float: {reason}" for layer, reason in operation.placement.kept_float)
        return StageResult(artifact=artifact.changed(operation, module), notes=notes)


def integer_recipe(profile: DeviceProfile) -> str | None:
    """The Q/DQ recipe of the profile's first runtime that runs int8."""
    return next((r.quantization for r in profile.runtimes if "int8" in r.precisions), None)
