"""The PyTorch side of a run: teacher, student and stage attempts as steps that are made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress import calibration_data, post_training, surgery
from compress.data import Splits
from compress.inherit import inherit
from compress.objective import Objective, losses, needs_labels, parse_losses
from compress.post_training import PostTraining, Quantised
from compress.progress import Progress
from compress.recipe import Recipe, made, sources, student_plan, tasks
from compress.stage import Artifact, Context, Stage, TrainedStage, run_stage, schedule_of
from compress.stages.quantize import integer_recipe
from compress.surgery import Plan, Quantize
from compress.tasks import Task
from compress.tensors import load_foreign, load_into
from compress.training import Trainer
from compress.workspace import UNFINISHED, Step, Workspace, code_digest, digest, source_digest, versions
from deploy import foreign
from deploy.export import capture, to_onnx
from deploy.files import sha256
from deploy.worker import padded
from profiles.device import DeviceProfile
from profiles.errors import UserError

# What every trained result depends on, besides the stage's own file. Comments in them may change freely.
ROOM = (
    "compress.training",
    "compress.run_state",
    "compress.loader",
    "compress.schedule",
    "compress.teacher_outputs",
    "compress.objective",
    "compress.taps",
    "compress.surgery",
    "compress.factorise",
    "compress.channels",
    "compress.quantizers",
    "compress.post_training",
    "compress.rounding",
    "calib.ranges",
    "deploy.bias",
    "deploy.equalise",
    "deploy.sensitivity",
    "deploy.placement",
    "deploy.qdq",
    "deploy.export",
)
MODEL = "model.onnx"
PACKAGES = ("torch", "numpy", "accelerate", "torch-pruning", "brevitas")


@final
@dataclass(frozen=True, eq=False)
class Made:
    """A step that holds an artifact; it is loaded from disk when someone first needs it. Equal by key."""

    step: Step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made) and other.step.key == self.step.key

    def __hash__(self) -> int:
        return hash(self.step.key)

    @cached_property
    def artifact(self) -> Artifact:
        plan, module = surgery.load(self.step.folder)
        return Artifact(plan=plan, module=module, stages=tuple(self.step.facts["stages"]))

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file without source code, so that it has no artifact."""
        return not (self.step.folder / surgery.PLAN).exists()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.step.facts["notes"])

    @property
    def recipe(self) -> str | None:
        """The Q/DQ recipe it was trained for; None for a float model."""
        found: str | None = self.step.facts["recipe"]
        return found

    @property
    def changed(self) -> bool:
        """Whether the stage did anything to the model."""
        return bool(self.step.facts["changed"])


@final
class Workshop:
    """Makes artifacts; knows the data, the task and the teacher, and nothing of engines."""

    def __init__(
        self,
        recipe: Recipe,
        profile: DeviceProfile,
        workspace: Workspace,
        progress: Progress,
        tracked: Path | None = None,
    ) -> None:
        self.recipe, self.profile, self._workspace = recipe, profile, workspace
        self.task: Task = made(recipe.task, tasks(), "[task] kind")
        self.data: Splits = made(recipe.data, sources(), "[task] data")
        self.data_key = self.data.fingerprint()
        for note in self.data.notes:
            progress.say(f"data: {note}")
        self._trainer = Trainer(recipe.seed, progress, recipe.trackers, tracked)
        self._progress = progress

    def check(self) -> None:
        """Fail in seconds rather than after hours: does the data fit the task, the models the data, do they export?

        Raises:
            UserError: everything that does not, of the data and then of both models.
        """
        decided = {"data": self.data_key, "task": self.task_key()}
        self._workspace.step("check-data", decided, lambda folder: self.task.check(self.data))
        shape = self.data.test.load(np.arange(1)).inputs.shape[1:]
        for doubt in calibration_data.check(self.data.calibration, shape):
            self._progress.say(f"data: {doubt}")
        if self.recipe.teacher.is_onnx:
            self._check_onnx(Path(self.recipe.teacher.model), decided)
            return
        faults = [] if self.task.has_labels(self.data.train) else self._unlabelled()
        faults += self._faults("teacher", self._teacher_plan(), decided)
        if not self.recipe.student.same_as_teacher:
            faults += self._faults("student", student_plan(self.recipe.student), decided)
        if faults:
            raise UserError(*faults)

    def _check_onnx(self, path: Path, decided: dict[str, Any]) -> None:
        try:
            about = {**decided, "model": sha256(_existing(str(path)))}
            self._workspace.step("check-model", about, lambda folder: self._check_file(path))
        except UserError as error:
            raise UserError(*[f"teacher {path.name}: {fault}" for fault in error.faults]) from None

    def _unlabelled(self) -> list[str]:
        """What cannot be done with training data that has no labels."""
        faults: list[str] = []
        if self.recipe.teacher.weights is None:
            faults.append("teacher: the training data has no labels to train it on; give its weights")
        for stage in self.recipe.stages:
            if isinstance(stage, TrainedStage) and (readers := needs_labels(stage.losses)):
                told = ", ".join(repr(name) for name in readers)
                fact = f"stage {stage.name}: its loss {told} needs labels, and the training data has none"
                faults.append(f"{fact}; leave it out of losses")
        return faults

    def _faults(self, role: str, plan: Plan, decided: dict[str, Any]) -> list[str]:
        try:
            about = {**decided, "plan": plan.as_json(), "code": self._model_key(plan)}
            self._workspace.step("check-model", about, lambda folder: self._check_model(plan))
        except UserError as error:
            return [f"{role} {plan.factory}: {fault}" for fault in error.faults]
        return []

    def _check_model(self, plan: Plan) -> None:
        module = plan.build()
        try:
            with torch.no_grad():
                outputs = module.eval()(self.example)
        except Exception as error:
            shape = tuple(self.example.shape)
            raise UserError(f"does not take the data's inputs of shape {shape}: {str(error).splitlines()[0]}") from error
        self.task.check_outputs(outputs, self.data)
        capture(module, [self.example])

    def _check_file(self, path: Path) -> None:
        model = foreign.read(path)
        given = model.graph.input[0].type.tensor_type.shape.dim
        wanted = tuple(d.dim_value or "free" for d in given)[1:]
        if any(w not in ("free", s) for w, s in zip(wanted, self.example.shape[1:], strict=True)):
            raise UserError(f"takes samples of shape {wanted}; the data's are {tuple(self.example.shape[1:])}")
        outputs = [torch.from_numpy(output) for output in _session(model)(self.example.numpy())]
        self.task.check_outputs(outputs[0] if len(outputs) == 1 else tuple(outputs), self.data)

    def _teacher_plan(self) -> Plan:
        return Plan(factory=self.recipe.teacher.model, arguments=self.recipe.teacher.arguments)

    @cached_property
    def example(self) -> Tensor:
        """Two inputs as the model takes them."""
        return torch.from_numpy(self.data.train.load(np.arange(2)).inputs)

    def teacher(self) -> Made:
        """The teacher: its weights loaded, or trained on labels alone."""
        spec = self.recipe.teacher
        if spec.is_onnx:
            return self._teacher_file(Path(spec.model))
        plan = self._teacher_plan()
        weights = None if spec.weights is None else sha256(_existing(spec.weights))
        schedule = schedule_of(spec)
        decided = {"plan": plan.as_json(), "code": self._model_key(plan), "weights": weights}
        if weights is None:
            decided |= {"schedule": asdict(schedule), **self._training_key(["compress.losses.task"])}

        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self.recipe.seed)
            module = plan.build()
            if spec.weights is not None:
                load_into(module, load_foreign(Path(spec.weights)), spec.weights)
            else:
                objective = Objective(parse_losses(["task"]), self.task, module, None, self.example)
                self._trainer.fit(
                    "teacher",
                    module,
                    objective,
                    self.data.train,
                    schedule,
                    folder / UNFINISHED,
                    validate=lambda m: self.task.evaluate(self.predictor(m), self.data.validation).value,
                )
            surgery.save(folder, plan, module)
            return _facts((), (), None)

        return Made(self._workspace.step("teacher", decided, make, together=True))

    def _teacher_file(self, path: Path) -> Made:
        def make(folder: Path) -> dict[str, Any]:
            onnx.save(foreign.read(path), str(folder / MODEL))
            return _facts((), (), None)

        decided = {"model": sha256(path), "code": code_digest(["deploy.foreign", "deploy.graph"])}
        return Made(self._workspace.step("teacher", decided, make))

    def student(self, teacher: Made) -> Made:
        """The student before any stage: the teacher itself, what fits of its weights, or fresh ones."""
        if self.recipe.student.same_as_teacher:
            return teacher
        spec, plan = self.recipe.student, student_plan(self.recipe.student)

        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self.recipe.seed + 1)
            module = plan.build()
            notes: tuple[str, ...] = ("weights are fresh",)
            if spec.inherits:
                between = None if spec.between is None else Plan(factory=spec.model, arguments=spec.between).build()
                notes = inherit(module, teacher.artifact.module, between, self.example)
            surgery.save(folder, plan, module)
            self._progress.say("  student: " + "; ".join(notes))
            return _facts((), notes, None)

        decided = {"plan": plan.as_json(), "code": self._model_key(plan), "seed": self.recipe.seed}
        if spec.inherits:
            decided |= {"teacher": teacher.step.key, "how": code_digest(["compress.inherit", "compress.channels"])}
        return Made(self._workspace.step("student", decided, make))

    def attempt(self, stage: Stage, start: Made, teacher: Made) -> Made:
        """The result of ``stage`` on ``start``."""
        decided = {
            "stage": stage.name,
            "fields": stage.fields(),
            "start": start.step.key,
            "teacher": teacher.step.key,
            "profile": stage.key(self.profile),
            "calibration": self.data.calibration.fingerprint(),
            **self._training_key([type(stage).__module__, *_loss_modules(stage)]),
        }

        def make(folder: Path) -> dict[str, Any]:
            context = self._context(teacher, folder / UNFINISHED)
            result, _ = run_stage(stage, start.artifact, context, self.recipe.seed)
            surgery.save(folder, result.artifact.plan, result.artifact.module)
            quantize = next((o for o in result.artifact.plan.operations if isinstance(o, Quantize)), None)
            unchanged = result.artifact.module is start.artifact.module
            recipe = quantize.recipe if quantize else None
            return _facts(result.artifact.stages, result.notes, recipe, changed=not unchanged)

        return Made(self._workspace.step(stage.name, decided, make, together=True))

    def reference(self, made: Made) -> Callable[[Any], list[Any]]:
        """What an engine's outputs are compared with: the module in fp32, or the file in ONNX Runtime."""
        if made.is_onnx:
            return _session(onnx.load(str(made.step.folder / MODEL)))
        return self.predictor(made.artifact.module)

    def predictor(self, module: nn.Module) -> Callable[[Any], list[Any]]:
        """The module in fp32 here, as the task evaluates it."""
        return self._trainer.predictor(module)

    def _context(self, teacher: Made, folder: Path) -> Context:
        module = teacher.artifact.module
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        asked = {"teacher": teacher.step.key, "data": self.data.train.fingerprint(), "seed": self.recipe.seed}
        return Context(
            task=self.task,
            data=self.data,
            teacher=module,
            profile=self.profile,
            trainer=self._trainer,
            example=self.example,
            folder=folder,
            outputs=self._workspace.root / f"teacher-outputs-{digest(asked)[:20]}",
            quantization=self._quantization,
        )

    def _quantization(self, module: nn.Module, options: PostTraining) -> Quantised:
        recipe = integer_recipe(self.profile)
        assert recipe is not None, "the quantize stage has asked for a runtime with int8"
        model = to_onnx(capture(module, [self.example]))
        return post_training.quantise(model, self.data.calibration, recipe, options)

    def _training_key(self, modules: list[str]) -> dict[str, Any]:
        return {
            "data": self.data.train.fingerprint(),
            "task": self.task_key(),
            "seed": self.recipe.seed,
            "numerics": self._trainer.numerics,
            "room": code_digest([*ROOM, *modules]),
            "versions": versions(*PACKAGES),
        }

    def task_key(self) -> str:
        """A name for what the task decides: its loss, its metric, and how it reads outputs."""
        use, modules = self.recipe.task, [type(self.task).__module__, *self.task.parts]
        return digest({"kind": use.use, "arguments": dict(use.arguments), "code": code_digest(modules)})

    def _model_key(self, plan: Plan) -> str:
        module = plan.build()
        return digest([source_digest(source) for source in surgery.sources(plan, module)])


def _facts(stages: tuple[str, ...], notes: tuple[str, ...], recipe: str | None, *, changed: bool = True) -> dict[str, Any]:
    return {"stages": list(stages), "notes": list(notes), "recipe": recipe, "changed": changed}


def _loss_modules(stage: Stage) -> list[str]:
    specs = getattr(stage, "losses", ())
    return [losses()[spec.use].partition(":")[0] for spec in specs]


def _session(model: onnx.ModelProto) -> Callable[[Any], list[Any]]:
    """A float model in ONNX Runtime as a function of arrays, whatever batch it is fixed to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    given = session.get_inputs()[0]

    def predict(inputs: Any) -> list[Any]:
        size = given.shape[0] if isinstance(given.shape[0], int) else len(inputs)
        starts = range(0, len(inputs), size)
        parts = [session.run(None, {given.name: padded(inputs[i : i + size], size)}) for i in starts]
        return [np.concatenate(outputs)[: len(inputs)] for outputs in zip(*parts, strict=True)]

    return predict


def _existing(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        load_foreign(path)  # says so
    return path
