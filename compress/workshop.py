"""The PyTorch side of a run: teacher, student and stage attempts as steps that are made once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress import surgery
from compress.checks import Checks
from compress.costs import Target
from compress.data import Splits
from compress.inherit import inherit
from compress.made import Made, model_key
from compress.onnx_session import onnx_session
from compress.progress import Progress, timed
from compress.quantization import calibration_data, selection
from compress.quantization.module_quantiser import ModuleQuantiser
from compress.quantization.selection import Asked
from compress.quantization.watcher import Watcher
from compress.recipe import Recipe, made, sources, tasks, teacher_plan
from compress.room import PACKAGES, ROOM
from compress.schedule import Schedule
from compress.stage import Context, Stage, run_stage
from compress.stages.quantize import integer_recipe
from compress.student_spec import student_plan
from compress.surgery import Plan, Quantize
from compress.tasks import Task
from compress.teaching.committee import Committee, Mirrored
from compress.teaching.labelled import Labelled, WithLabels, widened
from compress.teaching.loss_specs import modules_of, parse_losses
from compress.teaching.objective import Objective
from compress.teaching.teacher_engine import Answering
from compress.tensors import existing, load_foreign, load_into, load_tensors, save_tensors
from compress.training import Trainer
from compress.workspace import UNFINISHED, Step, Workspace, code_digest, digest, versions
from deploy import foreign
from deploy.files import sha256
from profiles.device import DeviceProfile
from profiles.errors import UserError

MODEL, LABELLED = "model.onnx", "labelled.safetensors"
MOST_LOST = 1.0
"""Points of the task's metric that teachers may lose by looking twice before it is refused."""


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
        self.watcher = Watcher(dict.fromkeys(r.quantization for r in profile.runtimes if r.quantization))
        self._trainer = Trainer(recipe.seed, progress, recipe.trackers, tracked)
        self._progress = progress
        self._engines: Answering | None = None
        self._pool = self.data.calibration

    def check(self) -> None:
        """Fail in seconds rather than after hours; raises ``UserError`` with everything that does not fit."""
        self._checks().all(self.task_key())
        shape = self.data.test.load(np.arange(1)).inputs.shape[1:]
        for doubt in calibration_data.check(self.data.calibration, shape):
            self._progress.say(f"data: {doubt}")

    def _checks(self) -> Checks:
        return Checks(self.recipe, self.task, self.data, self._workspace, self.example)

    @cached_property
    def example(self) -> Tensor:
        """Two inputs as the model takes them."""
        return torch.from_numpy(self.data.train.load(np.arange(2)).inputs)

    def teacher(self) -> Made:
        """The teacher: its weights loaded, or trained on labels alone."""
        spec = self.recipe.teacher
        if spec.is_onnx:
            return self._teacher_file(Path(spec.model))
        plan = teacher_plan(self.recipe.teacher)
        weights = None if spec.weights is None else sha256(existing(spec.weights))
        schedule = Schedule.of(spec)
        decided = {"plan": plan.as_json(), "code": model_key(plan), "weights": weights}
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

    def choose_calibration(self, teacher: Made) -> None:
        """From here on ``data.calibration`` is what the recipe chooses of it, or has made of the teacher's batch norms.

        Raises:
            UserError: labels, outputs or batch norms that the choice needs are not there.
        """
        spec = self.recipe.calibration
        if spec.select == "all":
            return
        decided = {
            "spec": asdict(spec),
            "pool": self._pool.fingerprint(),
            "teacher": teacher.step.key,
            "seed": self.recipe.seed,
            "code": code_digest(["compress.quantization.selection", "compress.quantization.synthesise", "calib.select"]),
        }

        def make(folder: Path) -> None:
            with timed(self._progress, f"calibration: {spec.select}, {spec.samples} samples"):
                asked = Asked(teacher, self.reference(teacher), self.task, self.example)
                selection.keep(folder, spec, self._pool, asked, self.recipe.seed)

        step = self._workspace.step("calibration", decided, make)
        self.data = replace(self.data, calibration=selection.kept(step.folder, spec, self._pool))

    def _teacher_file(self, path: Path) -> Made:
        def make(folder: Path) -> dict[str, Any]:
            onnx.save(foreign.read(path), str(folder / MODEL))
            return _facts((), (), None)

        decided = {"model": sha256(path), "code": code_digest(["deploy.foreign", "deploy.graph"])}
        return Made(self._workspace.step("teacher", decided, make))

    def fresh(self, plan: Plan) -> Made:
        """A model with random weights: a candidate of a search.

        Raises:
            UserError: it cannot be built, does not take the data, or does not export.
        """

        try:
            plan.build()
        except Exception as error:  # whatever a factory says to arguments that it cannot take
            raise UserError(f"cannot be built: {error}") from error

        def make(folder: Path) -> dict[str, Any]:
            self._checks().model(plan)
            torch.manual_seed(self.recipe.seed)
            surgery.save(folder, plan, plan.build())
            return _facts((), (), None)

        decided = {"plan": plan.as_json(), "code": model_key(plan), "seed": self.recipe.seed}
        return Made(self._workspace.step("candidate", decided, make))

    def also(self) -> list[Made]:
        """The teachers beside the first, their weights loaded."""
        found: list[Made] = []
        for spec in self.recipe.teacher.also:
            plan = Plan(factory=spec.model, arguments=spec.arguments)
            decided = {"plan": plan.as_json(), "code": model_key(plan), "weights": sha256(existing(spec.weights))}

            def make(folder: Path, plan: Plan = plan, weights: str = spec.weights) -> dict[str, Any]:
                torch.manual_seed(self.recipe.seed)
                module = plan.build()
                load_into(module, load_foreign(Path(weights)), weights)
                surgery.save(folder, plan, module)
                return _facts((), (), None)

            found.append(Made(self._workspace.step("teacher", decided, make, together=True)))
        return found

    def labelled(self, teacher: Made) -> tuple[Step, Labelled]:
        """The copy of the teacher that reads labels, as the recipe asks for it, trained from the teacher on."""
        spec, told = self.recipe.teacher, self.recipe.teacher.labelled
        assert told is not None
        schedule = replace(Schedule.of(spec), epochs=told.epochs, learning_rate=told.learning_rate)
        module = copy.deepcopy(teacher.artifact.module)
        made = widened(module, self.example, {"scale": told.scale, "noise": told.noise})

        def make(folder: Path) -> dict[str, Any]:
            losses = parse_losses(["task", {"use": "two_passes", "weight": told.agreement}])
            train, validation = WithLabels(self.data.train), WithLabels(self.data.validation)
            example = torch.from_numpy(train.load(np.arange(2)).inputs)

            def judge(m: nn.Module) -> float:
                return self.task.evaluate(self.predictor(m), validation).value

            objective = Objective(losses, self.task, made, None, example)
            before = judge(made)
            self._trainer.fit("labelled", made, objective, train, schedule, folder / UNFINISHED, validate=judge)
            save_tensors(folder / LABELLED, made.state_dict())
            note = f"the teacher that reads labels: validation {before:.2f} -> {judge(made):.2f}"
            self._progress.say(f"  {note}")
            return _facts((), (note,), None)

        decided = {"teacher": teacher.step.key, "labelled": asdict(told), "schedule": asdict(schedule)}
        modules = ["compress.teaching.labelled", "compress.losses.task", "compress.losses.passes"]
        step = self._workspace.step("labelled", {**decided, **self._training_key(modules)}, make, together=True)
        made.load_state_dict(load_tensors(step.folder / LABELLED)[0])
        return step, made.eval()

    def _taught_by(self, teacher: Made) -> str:
        """A name for all who teach."""
        spec = self.recipe.teacher
        if spec.labelled is not None:
            return digest({"teacher": self.labelled(teacher)[0].key})
        told: dict[str, Any] = {}
        if spec.engine is not None:
            about = [self.data.calibration.fingerprint(), code_digest(["compress.teaching.teacher_engine"])]
            told |= {"engine": spec.engine, "about": about}
        if spec.also or spec.mirrored:
            others = [(made.step.key, a.share) for made, a in zip(self.also(), spec.also, strict=True)]
            teachers = [(teacher.step.key, spec.share), *others]
            how = code_digest(["compress.teaching.committee"])
            told |= {"teachers": teachers, "mirrored": spec.mirrored, "how": how}
        return digest({"teacher": teacher.step.key, **told}) if told else teacher.step.key

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

        decided = {"plan": plan.as_json(), "code": model_key(plan), "seed": self.recipe.seed}
        if spec.inherits:
            decided |= {"teacher": teacher.step.key, "how": code_digest(["compress.inherit", "compress.pruning.channels"])}
        return Made(self._workspace.step("student", decided, make))

    def attempt(self, stage: Stage, start: Made, teacher: Made, target: Target | None = None) -> Made:
        """The result of ``stage`` on ``start``, which costs on the device what ``target`` says."""
        if self.recipe.teacher.mirrored:
            self._check_mirrored(teacher)
        decided = {
            "stage": stage.name,
            "fields": stage.fields(),
            "start": start.step.key,
            "teacher": self._taught_by(teacher),
            "profile": stage.key(self.profile),
            "calibration": self.data.calibration.fingerprint(),
            "validation": self.data.validation.fingerprint(),
            **self._training_key([type(stage).__module__, *_loss_modules(stage)]),
        }
        if stage.asks_target and target is not None:
            decided |= {"target": target.key}

        def make(folder: Path) -> dict[str, Any]:
            context = self._context(teacher, folder / UNFINISHED, target)
            result, _ = run_stage(stage, start.artifact, context, self.recipe.seed)
            surgery.save(folder, result.artifact.plan, result.artifact.module)
            quantize = next((o for o in result.artifact.plan.operations if isinstance(o, Quantize)), None)
            unchanged = result.artifact.module is start.artifact.module
            recipe = quantize.recipe if quantize else None
            facts = _facts(result.artifact.stages, result.notes, recipe, changed=not unchanged)
            told = {"choices": [asdict(choice) for choice in result.choices], "about": result.about}
            return {**facts, **told, "packed": result.artifact.packed}

        return Made(self._workspace.step(stage.name, decided, make, together=True))

    def reference(self, made: Made) -> Callable[[Any], list[Any]]:
        """What an engine's outputs are compared with: the module in fp32, or the file in ONNX Runtime."""
        if made.is_onnx:
            return onnx_session(onnx.load(str(made.step.folder / MODEL)))
        return self.predictor(made.artifact.module)

    def predictor(self, module: nn.Module) -> Callable[[Any], list[Any]]:
        """The module in fp32 here, as the task evaluates it."""
        return self._trainer.predictor(module)

    def _teachers(self, teacher: Made) -> nn.Module:
        """All who teach as one, each looking once."""
        # A copy: where the student is the teacher, the stage has to be able to train what it is given.
        module, spec = copy.deepcopy(teacher.artifact.module), self.recipe.teacher
        if spec.labelled is not None:
            return self.labelled(teacher)[1]
        if not spec.also:
            return module
        others = [copy.deepcopy(made.artifact.module) for made in self.also()]
        return Committee([module, *others], [spec.share, *(a.share for a in spec.also)]).eval()

    def _check_mirrored(self, teacher: Made) -> None:
        """Refuse teachers that looking twice makes worse: of a digit, a mirror image means something else."""

        def make(folder: Path) -> dict[str, Any]:
            once = self._teachers(teacher)
            modules = (once, Mirrored(once).eval())
            before, after = (self.task.evaluate(self.predictor(m), self.data.validation).value for m in modules)
            note = f"teachers that look twice: validation {before:.2f} -> {after:.2f}"
            if after < before - MOST_LOST:
                raise UserError(f"[teacher] mirrored: {note}; the images' mirror does not mean the same, leave it out")
            self._progress.say(f"  {note}")
            return _facts((), (note,), None)

        decided = {
            "teachers": self._taught_by(teacher),
            "data": self.data.validation.fingerprint(),
            "task": self.task_key(),
            "code": code_digest(["compress.teaching.committee"]),
        }
        self._workspace.step("mirrored", decided, make, together=True)

    def _context(self, teacher: Made, folder: Path, target: Target | None) -> Context:
        module = self._teachers(teacher)
        if self.recipe.teacher.mirrored:
            module = Mirrored(module).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        recipe, price = integer_recipe(self.profile), None if target is None else target.in_float
        asked = {"teacher": self._taught_by(teacher), "data": self.data.train.fingerprint(), "seed": self.recipe.seed}
        return Context(
            task=self.task,
            data=self.data,
            teacher=module,
            profile=self.profile,
            trainer=self._trainer,
            progress=self._progress,
            example=self.example,
            folder=folder,
            outputs=self._workspace.root / f"teacher-outputs-{digest(asked)[:20]}",
            answering=self._answering(module),
            quantization=ModuleQuantiser(recipe, self.example, self.data.calibration, self.watcher, price),
            target=target,
        )

    def _answering(self, module: nn.Module) -> Answering | None:
        """The teacher as an engine here runs it, where the recipe asks for one."""
        asked = self.recipe.teacher.engine
        if asked is None or self._engines is not None:
            return self._engines
        self._engines = Answering(module, asked, self.example, self.data.calibration)
        self._progress.say(f"  the teacher answers from {asked}")
        return self._engines

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


def _facts(stages: tuple[str, ...], notes: tuple[str, ...], recipe: str | None, *, changed: bool = True) -> dict[str, Any]:
    return {"stages": list(stages), "notes": list(notes), "recipe": recipe, "changed": changed}


def _loss_modules(stage: Stage) -> list[str]:
    return modules_of(getattr(stage, "losses", ()))
