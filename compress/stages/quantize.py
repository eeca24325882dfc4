"""quantize: int8 without training where that is enough, else by training under the distillation loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt
from torch import nn

from compress.methods.distillation.objective import parse_losses
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.methods.quantization.option_search import choose_options
from compress.methods.quantization.post_training import PostTraining, QuantizedModel, Ranges
from compress.stages.base import Artifact, Context, Stage, StageResult, copy_module
from compress.stages.trained import Losses, TrainedStage
from profiles.device import DeviceProfile
from profiles.errors import UserError

LOSSES = parse_losses([{"use": "task", "weight": 0.1}, {"use": "kd", "weight": 0.9}])


@final
@dataclass(frozen=True, kw_only=True)
class QuantizeStage(TrainedStage):
    """Int8 where the first integer runtime wants it, by the cheapest way that the gate accepts.

    First without training; then with weights rounded as learned; then with the layers float that hurt most; then trained
    through fake quantisers (Polino et al. 2018's quantized distillation, with learned step sizes), from where the first
    ended.

    Attributes:
        attempt: what is tried first.
        ranges, weights, equalise, rounding, biases: of the quantisation without training;
            ``compress.methods.quantization.post_training`` explains each. ``best`` leaves open what is right most often on
            validation: ranges ``norm`` or ``minmax``, biases corrected or as they are.
    """

    name = "quantize"
    most_softenings = 3

    attempt: Literal["post_training", "mixed", "trained"] = "post_training"
    ranges: Ranges | Literal["best"] = "best"
    weights: Literal["largest", "mse"] = "mse"
    equalise: bool = False
    rounding: Literal["nearest", "learned"] = "nearest"
    biases: bool | Literal["best"] = "best"
    epochs: Annotated[int, Ge(0)] = 8
    learning_rate: Annotated[float, Gt(0)] = 0.0005
    losses: Losses = LOSSES

    def requires(self, artifact: Artifact, context: Context) -> None:
        if artifact.quantized:
            raise UserError("stage quantize cannot follow quantize: the model has its ranges already")
        if artifact.packed:
            raise UserError("stage quantize cannot follow pack: weights would leave their points; leave one of the two out")
        if integer_recipe(context.profile) is None:
            raise UserError(
                f"stage quantize: no runtime of device {context.profile.name} runs int8; drop the stage for this device"
            )

    @property
    def asks_target(self) -> bool:
        return self.attempt == "mixed"

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        return {"recipe": integer_recipe(profile)}

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        quantized, chosen = self._quantised(artifact.module, context)
        if quantized.program is None:
            module = quantized.quantize.apply(copy_module(artifact))
        else:  # captured already, which is most of the work
            module = quantized.quantize.apply_to_program(quantized.program)
        assert isinstance(module, QuantizedProgram)
        module.adopt(quantized.tensors(), quantized.scales)
        recovery_notes = self.recover(module, context) if self.attempt == "trained" else ()
        kept = (f"{layer} stays float: {reason}" for layer, reason in quantized.quantize.placement.kept_float)
        return StageResult(
            artifact=artifact.changed(quantized.quantize, module), notes=(*recovery_notes, *chosen, *quantized.notes, *kept)
        )

    def softer(self) -> Stage | None:
        """Return a setting of less loss and more time: learned rounding, layers in float, then training.

        Training starts from weights that are not on the grid yet: from a point of it each has half a step to go before
        anything changes.
        """
        if self.attempt == "post_training":
            return replace(self, rounding="learned") if self.rounding == "nearest" else replace(self, attempt="mixed")
        return replace(self, attempt="trained", rounding="nearest") if self.attempt == "mixed" and self.epochs else None

    def _quantised(self, module: nn.Module, context: Context) -> tuple[QuantizedModel, tuple[str, ...]]:
        """Quantise the model without training; return it with notes."""
        ways = self.ways()
        plain = {replace(way, rounding="nearest", mixed=False): way for way in ways}
        if len(ways) == 1:
            return context.quantization(module, ways[0]), ()
        models = {way: context.quantization(module, way) for way in plain}
        best, notes = choose_options(models, context.task, context.data.validation, context.progress)
        return models[best] if plain[best] == best else context.quantization(module, plain[best]), notes

    def ways(self) -> list[PostTraining]:
        """List the options that the fields leave open, nearest to the float model first."""
        ranges: tuple[Ranges, ...] = ("norm", "minmax") if self.ranges == "best" else (self.ranges,)
        biases = (True, False) if self.biases == "best" else (self.biases,)
        return [self._options(each, corrected) for each in ranges for corrected in biases]

    def _options(self, ranges: Ranges, biases: bool) -> PostTraining:
        return PostTraining(
            ranges=ranges,
            weights=self.weights,
            equalise=self.equalise,
            rounding=self.rounding,
            biases=biases,
            mixed=self.attempt == "mixed",
        )


def integer_recipe(profile: DeviceProfile) -> str | None:
    """Return the Q/DQ recipe of the profile's first runtime that runs int8."""
    return next((r.quantization for r in profile.runtimes if "int8" in r.precisions), None)
