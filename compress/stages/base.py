"""The contract of a stage: its artifact, its context and its result."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

from torch import nn

from compress.data import Splits
from compress.data.subset import Subset
from compress.execution import distributed
from compress.execution.progress import Progress
from compress.methods.choice import Choice
from compress.methods.cost_model import CostModel
from compress.methods.distillation.engine_teacher import EngineTeachers
from compress.methods.distillation.objective import LossSpec, Objective
from compress.methods.distillation.query_budget import QueriedSignals
from compress.methods.packing.operations import Pack
from compress.methods.pruning.attempts import Attempts
from compress.methods.quantization.operations import Quantize
from compress.methods.quantization.post_training import PostTraining, QuantizedModel
from compress.models.checkpoint import load_tensors, save_tensors
from compress.models.inputs import ModelInputs, as_tensors, sample_values
from compress.models.plan import Operation, Plan
from compress.tasks import Task
from compress.tasks.evaluate import evaluate
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from profiles.device import DeviceProfile
from profiles.errors import UserError

FINISHED = "finished.safetensors"
SHOWN, MOST_VALUES = 64, 1 << 22
"""Samples that losses' own parts are fitted on: so many, or of fewer values."""


@final
@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Model on its way through the pipeline.

    Attributes:
        plan: rebuilds the module's structure.
        stages: names of the stages that made it, in order.
    """

    plan: Plan
    module: nn.Module
    stages: tuple[str, ...] = ()

    def changed(self, operation: Operation, module: nn.Module) -> Artifact:
        """Return the artifact after a structural change."""
        return Artifact(plan=self.plan.followed_by(operation), module=module, stages=self.stages)

    @property
    def quantized(self) -> bool:
        """Whether the plan quantizes the model."""
        return any(isinstance(operation, Quantize) for operation in self.plan.operations)

    @property
    def packed(self) -> bool:
        """Whether the plan packs the model."""
        return any(isinstance(operation, Pack) for operation in self.plan.operations)


@final
@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything that a stage may use besides its artifact and its own fields.

    Attributes:
        teacher: frozen.
        progress: where long work that is no training tells how far it is.
        example: inputs of two samples: (2, ...), or several by name; of a model with states one step of them.
        shown: the inputs of two samples as the data gives them, where they are sequences.
        folder: for checkpoints inside the stage; empty or what a killed attempt left.
        outputs: where the teacher's outputs are kept, for all stages that ask it the same.
        target: what the starting model costs on the device; None where there is none to ask.
        quantization: quantises a float module without training for the profile's first integer runtime.
        attempts: what earlier attempts at the same starting model found out.
        answering: makes what is asked in the teacher's place; None for the teacher itself.
        answers: what the teacher said of the training split, where that is stored with it and it is not asked again.
    """

    task: Task
    data: Splits
    teacher: nn.Module
    profile: DeviceProfile
    trainer: Trainer
    progress: Progress
    example: ModelInputs
    folder: Path
    outputs: Path
    quantization: Callable[[nn.Module, PostTraining], QuantizedModel]
    target: CostModel | None = None
    shown: ModelInputs | None = None
    engine_teachers: EngineTeachers | None = None
    attempts: Attempts = field(default_factory=Attempts)
    answers: QueriedSignals | None = None

    def train(
        self,
        name: str,
        module: nn.Module,
        losses: tuple[LossSpec, ...],
        schedule: Schedule,
        part: str = "",
        answers: QueriedSignals | None = None,
        *,
        trained: bool = False,
    ) -> nn.ModuleList | None:
        """Train ``module`` in place with the teacher attached.

        Args:
            part: which training it is, in a stage that has several; a finished one is not done again after a kill.
            answers: what the teacher said of some samples: the training is on those, and it is not asked again.
            trained: whether the module works already.

        Returns:
            What the losses have of their own after it; None where it was not done again.
        """
        folder = self.folder / part if part else self.folder
        done = folder / FINISHED
        if part and distributed.from_main(done.exists()):
            module.load_state_dict(load_tensors(done)[0])
            module.eval()
            return None
        parts = self._fit(name, module, losses, schedule, folder, answers, trained=trained)
        if part and distributed.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(done, module.state_dict())
        distributed.wait()
        return parts

    def objective(
        self, module: nn.Module, losses: tuple[LossSpec, ...], samples: int, *, trained: bool = False
    ) -> Objective:
        """Build the losses between ``module`` and the teacher for a number of samples; ``trained``: it works already."""
        untrained = self.example if self.shown is None else self.shown
        example, teacher = self._shown() if trained else untrained, self.trainer.spread(self.teacher)
        return Objective(losses, self.task, module, teacher, example, samples, self.engine_teachers, trained=trained)

    def _shown(self) -> ModelInputs:
        count = max(2, min(SHOWN, MOST_VALUES // sample_values(self.example)))
        shown: ModelInputs = as_tensors(next(self.data.train.evenly_spaced_batches(count, count)).inputs)
        return shown

    def _fit(
        self,
        name: str,
        module: nn.Module,
        losses: tuple[LossSpec, ...],
        schedule: Schedule,
        folder: Path,
        answers: QueriedSignals | None,
        *,
        trained: bool,
    ) -> nn.ModuleList:
        samples = self.data.train if answers is None else Subset(self.data.train, answers.indices)
        objective = self.objective(module, losses, len(samples), trained=trained)
        self.trainer.fit(
            name,
            module,
            objective,
            samples,
            schedule,
            folder,
            validate=self._validate,
            outputs=self.outputs / objective.teacher_key(schedule.teacher_inputs),
            answers=self.answers if answers is None else answers,
        )
        return objective.parts.cpu()

    def judge(self, module: nn.Module, name: str) -> float:
        """Evaluate a module on the validation split by the task's metric; larger is better. ``name`` is beside the bar."""
        with self.trainer.placed([module]):
            return evaluate(self.task, self.trainer.predictor(module), self.data.validation, self.progress, name)

    def _validate(self, module: nn.Module) -> float:
        return self.task.evaluate(self.trainer.predictor(module), self.data.validation).value


@final
@dataclass(frozen=True, kw_only=True)
class StageResult:
    """Result of a stage: its artifact, notes and choices.

    Attributes:
        notes: parts left alone, and why.
        choices: what was chosen for each part, for the report.
        about: what the choices rest on.
    """

    artifact: Artifact
    notes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    about: str = ""


class Stage(ABC):
    """One step of compression: a frozen dataclass whose fields are its whole configuration.

    Subclasses are final. They hold the algorithm only; ``run_stage`` does the rest.
    """

    name: ClassVar[str]
    excludes: ClassVar[Mapping[str, str]] = {}
    """Stages that cannot stand in the same recipe, and why."""
    trains_branches: ClassVar[bool] = False
    """Whether it starts from a model whose branches are not folded yet, as they are trained side by side."""
    is_last: ClassVar[bool] = False
    """Whether no stage can follow it in a recipe."""
    most_softenings: ClassVar[int] = 2
    """How many milder settings are tried at most."""

    def requires(self, artifact: Artifact, context: Context) -> None:
        """Raise ``UserError`` when this stage cannot follow what was done to ``artifact``."""
        if artifact.quantized:
            raise UserError(f"stage {self.name} cannot follow quantize: its ranges would not fit; put quantize last")
        if artifact.packed:
            raise UserError(f"stage {self.name} cannot follow pack: weights would leave their points; put pack last")

    @property
    def asks_target(self) -> bool:
        """Whether what the model costs on the device decides the result."""
        return False

    def key(self, profile: DeviceProfile) -> dict[str, Any]:
        """Return the parts of the device's profile that decide the result, besides the fields."""
        return {}

    @abstractmethod
    def run(self, artifact: Artifact, context: Context) -> StageResult:
        """Run the algorithm; it must leave ``artifact.module`` as it is."""

    def softer(self) -> Stage | None:
        """Return a milder setting to try when the gate says that this one cost too much; None when there is none."""
        return None

    @final
    def fields(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # every subclass is a dataclass


def copy_module(artifact: Artifact) -> nn.Module:
    """Copy the artifact's module, to be changed and trained."""
    return copy.deepcopy(artifact.module)
