"""Teachers of a run: loaded or trained, ensembles, flip averaging, label-assisted, on an engine or not."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from compress.data import Samples
from compress.execution.cache import UNFINISHED, Step, digest
from compress.methods.distillation.engine_teacher import EngineTeachers
from compress.methods.distillation.ensemble import FlipAveraging, TeacherEnsemble
from compress.methods.distillation.label_teacher import LabelAssistedTeacher, LabelledSamples, add_label_channel
from compress.methods.distillation.loss_specs import loss_modules, parse_losses
from compress.methods.distillation.objective import Objective
from compress.models import plan as surgery
from compress.models.checkpoint import WeightsSpec, checkpoint_path, load_into, load_tensors, save_tensors
from compress.models.foreign import read_checkpoint
from compress.models.hub.fill import fill
from compress.models.hub.records import Found
from compress.models.plan import Plan
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel, model_facts, model_key
from compress.pipeline.run_context import RunContext
from compress.recipe.spec import AlsoSpec
from compress.tasks.segmentation import Segmentation
from compress.training.schedule import Schedule
from deploy.files import sha256
from profiles.errors import UserError

LABELLED = "labelled.safetensors"
LARGEST_FINE_RATE = 0.02
"""Of SGD, for weights that are trained already."""
MOST_LOST = 1.0
"""Points of the task's metric that teachers may lose by looking twice before it is refused."""


@final
class Teachers:
    """Teachers of the stages of a run, as ``[teacher]`` asks."""

    def __init__(self, shared: RunContext) -> None:
        self._shared, self._spec = shared, shared.recipe.teacher
        self._engine: EngineTeachers | None = None

    def also(self) -> list[CachedModel]:
        """Load the teachers beside the first."""
        return [self._beside(number, spec) for number, spec in enumerate(self._spec.also)]

    def _beside(self, number: int, spec: AlsoSpec) -> CachedModel:
        plan, found = Plan(factory=spec.model, arguments=spec.arguments), self._shared.recipe.names.get(f"also {number}")
        if found is None:
            assert spec.weights is not None, "a recipe without is refused"
            return self.loaded(plan, spec.weights)
        made = self._filled(plan, found)
        if made.step.facts["fresh"]:
            words = "; ".join(made.notes)
            raise UserError(f"[[teacher.also]] {found.pin.model}: {words}; it is not trained here, so it must fit the data")
        return made

    def published(self, plan: Plan, found: Found) -> CachedModel:
        """Load a teacher with published weights; what of it stays random, a head of other classes, is trained with it.

        Raises:
            UserError: the weights do not fit, or something is to be trained and there are no labels.
        """
        made, shared = self._filled(plan, found), self._shared
        for note in made.notes:
            shared.progress.say(f"  {note}")
        if not made.step.facts["fresh"]:
            return made
        if not shared.task.has_labels(shared.data.train):
            raise UserError(f"teacher {found.pin.model}: {'; '.join(made.notes)}, and the training data has no labels")
        shared.progress.say(f"  the teacher is trained on from these weights, for {self._spec.epochs} epochs")
        if self._spec.optimizer == "sgd" and self._spec.learning_rate > LARGEST_FINE_RATE:
            rate = self._spec.learning_rate
            shared.progress.say(
                f"  warning: a learning_rate of {rate:g} overwrites them; {LARGEST_FINE_RATE:g} or less keeps them"
            )
        return self.trained(plan, made)

    def published_key(self, found: Found) -> dict[str, Any]:
        """Return what decides a model with published weights."""
        return {
            "weights": {file.name: file.sha256 for file in found.pin.files},
            "published": dict(found.published),
            "classes": [list(self._shared.data.classes), [list(names) for names in found.facts.labels]],
            "how": code_key(fill),
        }

    def _filled(self, plan: Plan, found: Found) -> CachedModel:
        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self._shared.recipe.seed)
            module = plan.build()
            filled = fill(module, found, self._shared.data.classes)
            surgery.save(folder, plan, module)
            return {**model_facts(notes=filled.notes), "fresh": list(filled.fresh), "published": True}

        decided = {
            "plan": plan.as_json(),
            "code": model_key(plan),
            "seed": self._shared.recipe.seed,
            **self.published_key(found),
        }
        return CachedModel(self._shared.cache.step("teacher", decided, make))

    def loaded(self, plan: Plan, weights: str | WeightsSpec) -> CachedModel:
        """Load a teacher with the weights of a checkpoint."""
        spec = WeightsSpec(file=weights) if isinstance(weights, str) else weights

        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self._shared.recipe.seed)
            module = plan.build()
            checkpoint = read_checkpoint(spec, folder)
            for note in checkpoint.notes:
                self._shared.progress.say(f"weights {spec.file}: {note}")
            load_into(module, checkpoint.state, str(spec))
            surgery.save(folder, plan, module)
            return model_facts()

        decided = {"plan": plan.as_json(), "code": model_key(plan), "weights": sha256(checkpoint_path(spec.file))}
        if spec.entry or spec.prefix:
            decided["part"] = [spec.entry, spec.prefix]
        return CachedModel(self._shared.cache.step("teacher", decided, make))

    def trained(self, plan: Plan, start: CachedModel | None = None, name: str = "teacher") -> CachedModel:
        """Train a teacher without a checkpoint, on labels alone; from random weights, or those of ``start``."""
        shared, schedule = self._shared, Schedule.of(self._spec)

        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(shared.recipe.seed)
            module = plan.build()
            if start is not None:
                module.load_state_dict(start.artifact.module.state_dict())
            objective = Objective(parse_losses(["task"]), shared.task, module, None, shared.shown)
            shared.trainer.fit(
                name,
                module,
                objective,
                shared.data.train,
                schedule,
                folder / UNFINISHED,
                validate=lambda m: shared.judge(m, shared.data.validation),
            )
            surgery.save(folder, plan, module)
            return model_facts()

        decided = {"plan": plan.as_json(), "code": model_key(plan), "weights": None, "schedule": asdict(schedule)}
        decided |= shared.training_key(Objective, "compress.losses.task")
        if start is not None:
            decided["start"] = start.step.key
        return CachedModel(shared.cache.step("teacher", decided, make, together=True))

    def baseline(self, number: int) -> CachedModel:
        """Build a smaller model of [baselines]: its weights loaded, or trained as the teacher is."""
        spec = self._shared.recipe.baselines[number]
        plan, found = Plan(factory=spec.model, arguments=spec.arguments), self._shared.recipe.names.get(f"baseline {number}")
        if found is not None:
            return self.published(plan, found)
        return self.trained(plan, name=spec.name) if spec.weights is None else self.loaded(plan, spec.weights)

    def labelled(self, teacher: CachedModel) -> tuple[Step, LabelAssistedTeacher]:
        """Train the label-assisted copy of the teacher, from the teacher on."""
        told, shared = self._spec.labelled, self._shared
        assert told is not None
        schedule = replace(Schedule.of(self._spec), epochs=told.epochs, learning_rate=told.learning_rate)
        module = copy.deepcopy(teacher.artifact.module)
        made = add_label_channel(module, shared.example, {"scale": told.scale, "noise": told.noise})

        def make(folder: Path) -> dict[str, Any]:
            losses = parse_losses(["task", {"use": "two_passes", "weight": told.agreement}])
            train, validation = LabelledSamples(shared.data.train), LabelledSamples(shared.data.validation)
            example = torch.from_numpy(train.load(np.arange(2)).inputs)

            def judge(m: nn.Module) -> float:
                return shared.judge(m, validation)

            objective = Objective(losses, shared.task, made, None, example)
            before = judge(made)
            shared.trainer.fit("labelled", made, objective, train, schedule, folder / UNFINISHED, validate=judge)
            save_tensors(folder / LABELLED, made.state_dict())
            note = f"the teacher that reads labels: validation {before:.2f} -> {judge(made):.2f}"
            shared.progress.say(f"  {note}")
            return model_facts(notes=(note,))

        decided = {"teacher": teacher.step.key, "labelled": asdict(told), "schedule": asdict(schedule)}
        modules = loss_modules(parse_losses(["task", "two_passes"]))
        step = shared.cache.step(
            "labelled", {**decided, **shared.training_key(Objective, add_label_channel, *modules)}, make, together=True
        )
        made.load_state_dict(load_tensors(step.folder / LABELLED)[0])
        return step, made.eval()

    def key(self, teacher: CachedModel, calibration: Samples) -> str:
        """Return a key of all teachers; the ranges of their engine come from ``calibration``."""
        spec = self._spec
        if spec.labelled is not None:
            return digest({"teacher": self.labelled(teacher)[0].key})
        told: dict[str, Any] = {}
        if spec.engine is not None:
            about = [calibration.fingerprint(), code_key(EngineTeachers)]
            told |= {"engine": spec.engine, "about": about}
        if spec.also or spec.mirrored:
            others = [(made.step.key, a.share) for made, a in zip(self.also(), spec.also, strict=True)]
            teachers = [(teacher.step.key, spec.share), *others]
            how = code_key(TeacherEnsemble)
            told |= {"teachers": teachers, "mirrored": spec.mirrored, "how": how}
        return digest({"teacher": teacher.step.key, **told}) if told else teacher.step.key

    def shares(self, teacher: CachedModel) -> list[tuple[nn.Module, float]]:
        """Return a frozen copy of each teacher with its share."""
        made = [(teacher, self._spec.share), *zip(self.also(), (a.share for a in self._spec.also), strict=True)]
        return [(copy.deepcopy(each.artifact.module).eval().requires_grad_(False), share) for each, share in made]

    def check_mirrored(self, teacher: CachedModel, calibration: Samples) -> None:
        """Refuse teachers that looking twice makes worse: of a digit, a mirror image means something else."""
        if not self._spec.mirrored:
            return
        shared = self._shared

        def make(folder: Path) -> dict[str, Any]:
            once = self._looking_once(teacher)
            before, after = (
                shared.judge(m, shared.data.validation) for m in (once, FlipAveraging(once, maps=self._maps).eval())
            )
            note = f"teachers that look twice: validation {before:.2f} -> {after:.2f}"
            if after < before - MOST_LOST:
                raise UserError(f"[teacher] mirrored: {note}; the images' mirror does not mean the same, leave it out")
            shared.progress.say(f"  {note}")
            return model_facts(notes=(note,))

        decided = {
            "teachers": self.key(teacher, calibration),
            "data": shared.data.validation.fingerprint(),
            "task": shared.task_key(),
            "code": code_key(TeacherEnsemble),
        }
        shared.cache.step("mirrored", decided, make, together=True)

    def frozen(self, teacher: CachedModel) -> nn.Module:
        """Build one frozen module of all teachers."""
        module = self._looking_once(teacher)
        if self._spec.mirrored:
            module = FlipAveraging(module, maps=self._maps).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module

    def engine_teachers(self, module: nn.Module, calibration: Samples) -> EngineTeachers | None:
        """Build the teachers on an engine here, where the recipe asks for one."""
        asked = self._spec.engine
        if asked is None or self._engine is not None:
            return self._engine
        self._engine = EngineTeachers(module, asked, self._shared.example, calibration)
        self._shared.progress.say(f"  the teacher answers from {asked}")
        return self._engine

    def _looking_once(self, teacher: CachedModel) -> nn.Module:
        # A copy: where the student is the teacher, the stage has to be able to train what it is given.
        module, spec = copy.deepcopy(teacher.artifact.module), self._spec
        if spec.labelled is not None:
            return self.labelled(teacher)[1]
        if not spec.also:
            return module
        others = [copy.deepcopy(made.artifact.module) for made in self.also()]
        shares = [spec.share, *(each.share for each in spec.also)]
        return TeacherEnsemble([module, *others], shares, maps=self._maps).eval()

    @property
    def _maps(self) -> bool:
        """Whether the teachers answer for each pixel."""
        return isinstance(self._shared.task, Segmentation)
