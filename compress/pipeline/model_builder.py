"""The PyTorch side of a run: teacher, student and stage attempts, each a step made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import nn

from compress.data import Samples, Splits
from compress.execution.cache import UNFINISHED, StepCache, digest
from compress.execution.progress import Progress, timed
from compress.methods.cost_model import CostModel
from compress.methods.distillation.loss_specs import loss_modules
from compress.methods.distillation.weight_inheritance import inherit_weights
from compress.methods.packing.operations import Pack
from compress.methods.pruning.attempts import Attempts
from compress.methods.quantization import calibration_checks, calibration_selection
from compress.methods.quantization.calibration_selection import TeacherOutputs
from compress.methods.quantization.observer import Observer
from compress.methods.quantization.operations import Quantize
from compress.methods.quantization.post_training import ModuleQuantizer
from compress.methods.reparameterisation.branches import fold_branches, has_branches
from compress.methods.reparameterisation.operations import Fold
from compress.models import plan as surgery
from compress.models import trust
from compress.models.hub.fill import fill
from compress.models.inputs import ModelInputs, as_arrays, as_tensors, describe, shapes_of
from compress.models.plan import Plan
from compress.pipeline import decode_graph
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import CachedModel, model_facts, model_key
from compress.pipeline.input_states import states_put_first
from compress.pipeline.names import resolve_names
from compress.pipeline.preflight import Preflight
from compress.pipeline.recovery import Recovery, choose, source_of
from compress.pipeline.run_context import RunContext
from compress.pipeline.served_data import served_data
from compress.pipeline.served_models import ServedModels
from compress.pipeline.teachers import Teachers
from compress.recipe.parse import instantiate, sources, tasks
from compress.recipe.spec import Recipe, teacher_plan
from compress.recipe.student import StudentSpec, student_plan
from compress.stages.base import Context, Stage
from compress.stages.quantize import integer_recipe
from compress.stages.runner import run_stage
from compress.tasks import Task
from compress.training.trainer import Trainer
from deploy.engines.inputs import as_feed
from deploy.export import from_onnx
from deploy.export.to_onnx import capture, to_onnx
from deploy.files import sha256
from deploy.onnx_graph.fixed_sizes import fix_sizes
from profiles.device import DeviceProfile
from profiles.errors import UserError

MODEL = "model.onnx"


@final
class ModelBuilder:
    """Builder of teachers, students and attempts; knows the data and the task, and nothing of engines."""

    def __init__(
        self,
        recipe: Recipe,
        profile: DeviceProfile,
        cache: StepCache,
        progress: Progress,
        tracked: Path | None = None,
    ) -> None:
        recipe = resolve_names(recipe, progress)
        self.recipe, self.profile, self._cache = recipe, profile, cache
        trust.allow(*recipe.factories)
        self.task: Task = instantiate(recipe.task, tasks(), "[task] kind")
        self.data: Splits = instantiate(recipe.data, sources(), "[task] data")
        self.data, serving = served_data(recipe, self.data)
        self.task = self.task.bound_to(self.data)
        self.data_key = self.data.fingerprint()
        self._trainer = Trainer(
            recipe.seed, progress, recipe.trackers, tracked, serving.sizes, shards_teacher=recipe.teacher.shard
        )
        self._shared = RunContext(
            recipe=recipe,
            task=self.task,
            data=self.data,
            serving=serving,
            trainer=self._trainer,
            cache=cache,
            progress=progress,
        )
        self.teachers = Teachers(self._shared)
        self.models = ServedModels(self._shared, self.file_at)
        for note in self.data.notes:
            progress.say(f"data: {note}")
        self.observer = Observer(dict.fromkeys(r.quantization for r in profile.runtimes if r.quantization))
        self._progress = progress
        self._pool: Samples = self.data.calibration
        self.recovery: Recovery | None = None
        self._branched: dict[str, CachedModel] = {}
        self._file_by_key: dict[str, Path] = {}
        self._attempts: tuple[str, Attempts] = ("", Attempts())

    def check(self) -> None:
        """Check the recipe in seconds, before hours of work; raises ``UserError`` with everything that does not fit."""
        Preflight(self._shared).all()
        shapes = shapes_of(as_tensors(self.data.test.load(np.arange(1)).inputs))
        for doubt in calibration_checks.check_calibration(self.data.calibration, shapes):
            self._progress.say(f"data: {doubt}")

    @property
    def calibration_pool(self) -> Samples:
        """Return the whole calibration split, of which ``choose_calibration`` selects."""
        return self._pool

    @property
    def example(self) -> ModelInputs:
        """Return the inputs of two samples as the model takes them."""
        return self._shared.example

    def file_at(self, made: CachedModel, size: int) -> CachedModel:
        """Return a model that is an ONNX file, its sizes fixed to a smaller one."""
        return self._teacher_file(self._file_by_key[made.step.key], size)

    def teacher(self) -> CachedModel:
        """Build the teacher: its weights loaded, or trained on labels alone; its branches folded then."""
        spec = self.recipe.teacher
        if spec.is_onnx:
            return self._teacher_file(Path(spec.model))
        plan, found = teacher_plan(spec), self.recipe.names.get("teacher")
        if found is not None:
            return self.folded(self.teachers.published(plan, found))
        made = self.teachers.trained(plan) if spec.weights is None else self.teachers.loaded(plan, spec.weights)
        return self.folded(made)

    def folded(self, made: CachedModel) -> CachedModel:
        """Fold the branches of a model, as it is measured, pruned and shipped; itself where it has none.

        A stage that trains branches (``Stage.trains_branches``) goes on from what was given here.
        """
        if made.is_onnx or any(isinstance(each, Fold | Quantize | Pack) for each in made.artifact.plan.operations):
            return made
        if not has_branches(made.artifact.module):
            return made

        def make(folder: Path) -> dict[str, Any]:
            fold, module, notes = fold_branches(made.artifact.module, self.example)
            plan = made.artifact.plan if fold is None else made.artifact.plan.followed_by(fold)
            surgery.save(folder, plan, module)
            for note in notes:
                self._progress.say(f"  {note}")
            return {**made.step.facts, "notes": [*made.step.facts["notes"], *notes], "seconds": made.seconds}

        decided = {"model": made.step.key, "data": self.data_key, "code": code_key(fold_branches)}
        folded = CachedModel(self._cache.step("fold", decided, make))
        self._branched[folded.step.key] = made
        return folded

    def branched(self, made: CachedModel) -> CachedModel:
        """Return the model that ``made`` was folded of; itself where it was not."""
        return self._branched.get(made.step.key, made)

    def baselines(self) -> list[tuple[str, CachedModel]]:
        """Build the models that are free to take, by the names of their rows."""
        made: list[tuple[str, CachedModel]] = []
        for number, spec in enumerate(self.recipe.baselines):
            self._progress.say(f"baseline: {spec.name}")
            is_file = spec.model.endswith(".onnx")
            made.append((spec.name, self._teacher_file(Path(spec.model)) if is_file else self.teachers.baseline(number)))
        return made

    def trains_teacher(self, teacher: CachedModel) -> bool:
        """Whether the teacher learned from the training split here, rather than elsewhere."""
        return self.recipe.teacher.weights is None and not teacher.is_onnx and not teacher.step.facts.get("published", False)

    def choose_recovery(self, teacher: CachedModel) -> None:
        """Make the small set that stages train on; ``data.train`` and ``data.calibration`` are of it from here on.

        Raises:
            UserError: the set cannot be made of the data and the teacher.
        """
        spec = self.recipe.recovery
        if spec is None or self.recovery is not None:
            return
        shares = self.teachers.shares(teacher)
        reads_labels = self.recipe.teacher.labelled is not None  # in place of it the teacher itself answers
        answering = shares[0][0] if reads_labels else self.teachers.frozen(teacher)
        source = source_of(self._shared, self.data, answering, shares)
        self.recovery = choose(spec, source, self._shared, self.teachers.key(teacher, self._pool))
        for note in self.recovery.notes:
            self._progress.say(f"  {note}")
        self._pool = self.recovery.calibration if self.recovery.file else self._pool
        self.data = replace(self.data, train=self.recovery.samples, calibration=self._pool)

    def choose_calibration(self, teacher: CachedModel) -> None:
        """Select the calibration samples as the recipe asks, or synthesise them; ``data.calibration`` is those from here on.

        Where the recipe has a recovery set they are of that.

        Raises:
            UserError: labels, outputs or batch norms that the choice needs are not there.
        """
        self.choose_recovery(teacher)
        spec = self.recipe.calibration
        if spec.select == "all":
            return
        decided = {
            "spec": {"select": spec.select, "samples": spec.samples},
            "pool": self._pool.fingerprint(),
            "teacher": teacher.step.key,
            "seed": self.recipe.seed,
            "code": code_key(calibration_selection),
        }

        def make(folder: Path) -> None:
            with timed(self._progress, f"calibration: {spec.select}, {spec.samples} samples"):
                module = None if teacher.is_onnx else lambda: teacher.artifact.module
                asked = TeacherOutputs(module, self.reference(teacher), self.task, self.example)
                calibration_selection.save_selection(folder, spec, self._pool, asked, self.recipe.seed)

        step = self._cache.step("calibration", decided, make)
        self.data = replace(self.data, calibration=calibration_selection.load_selection(step.folder, spec, self._pool))

    def _teacher_file(self, path: Path, size: int | None = None) -> CachedModel:
        asked, example = self.task.asked_head(), self.models.example_at(size)

        def make(folder: Path) -> dict[str, Any]:
            model, note = from_onnx.read(path), ""
            if self.recipe.states:
                states_put_first(model, self.recipe.states)
            feed = as_feed(as_arrays(example), [given.name for given in model.graph.input])
            sizes = fix_sizes(model, {name: tuple(array.shape[1:]) for name, array in feed.items()})
            if asked is not None and not asked.in_graph:
                model, note = decode_graph.cut(model, as_arrays(example), asked)
            onnx.save(model, str(folder / MODEL))
            told = f"free sizes are those of the data: {'; '.join(sizes)}" if sizes else ""
            return model_facts(notes=tuple(each for each in (note, told) if each))

        decided: dict[str, Any] = {"model": sha256(path), "code": code_key(from_onnx, fix_sizes)}
        if self.recipe.states:
            decided["states"] = [*map(asdict, self.recipe.states), code_key(states_put_first)]
        decided["inputs"] = describe(example)
        if asked is not None:
            decided |= {"task": self.task_key(), "cut": code_key(decode_graph)}
        made = CachedModel(self._cache.step("teacher", decided, make))
        self._file_by_key[made.step.key] = path
        return made

    def fresh(self, plan: Plan) -> CachedModel:
        """Build a model with random weights: a candidate of a search.

        Raises:
            UserError: it cannot be built, does not take the data, or does not export.
        """

        try:
            plan.build()
        except Exception as error:  # whatever a factory says to arguments that it cannot take
            raise UserError(f"cannot be built: {error}") from error

        def make(folder: Path) -> dict[str, Any]:
            Preflight(self._shared).model(plan)
            torch.manual_seed(self.recipe.seed)
            surgery.save(folder, plan, plan.build())
            return model_facts()

        decided = {"plan": plan.as_json(), "code": model_key(plan), "seed": self.recipe.seed}
        return self.folded(CachedModel(self._cache.step("candidate", decided, make)))

    def check_student(self, spec: StudentSpec) -> None:
        """Check a student that a search chose; raises ``UserError`` with everything that does not fit."""
        Preflight(self._shared).student(spec)

    def student(self, teacher: CachedModel, spec: StudentSpec) -> CachedModel:
        """Build the student before any stage: the teacher itself, what fits of its weights, or fresh ones."""
        if spec.same_as_teacher:
            return teacher
        plan, found = student_plan(spec), self.recipe.names.get("student")

        def make(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self.recipe.seed + 1)
            module = plan.build()
            notes: tuple[str, ...] = ("weights are as given",) if plan.is_given else (f"{spec.model}, random weights",)
            if found is not None:
                notes = (f"weights of {found.about}", *fill(module, found, self.data.classes).notes)
            elif spec.inherits:
                between = None if spec.between is None else Plan(factory=spec.model, arguments=spec.between).build()
                notes = inherit_weights(module, self.branched(teacher).artifact.module, between, self.example)
            surgery.save(folder, plan, module)
            self._progress.say("  student: " + "; ".join(notes))
            return model_facts(notes=notes)

        decided = {"plan": plan.as_json(), "code": model_key(plan), "seed": self.recipe.seed}
        if found is not None:
            decided |= self.teachers.published_key(found)
        elif spec.inherits:
            decided |= {
                "teacher": teacher.step.key,
                "how": code_key(inherit_weights),
            }
        return self.folded(CachedModel(self._cache.step("student", decided, make)))

    def attempt(
        self, stage: Stage, start: CachedModel, teacher: CachedModel, target: CostModel | None = None
    ) -> CachedModel:
        """Try ``stage`` on ``start``, whose costs on the device ``target`` knows; the result has its branches folded."""
        self.teachers.check_mirrored(teacher, self.data.calibration)
        start = self.branched(start) if stage.trains_branches else start
        decided = {
            "stage": stage.name,
            "fields": stage.fields(),
            "start": start.step.key,
            "teacher": self.teachers.key(teacher, self.data.calibration),
            "profile": stage.key(self.profile),
            "calibration": self.data.calibration.fingerprint(),
            "validation": self.data.validation.fingerprint(),
            **self._shared.training_key(type(stage), *loss_modules(getattr(stage, "losses", ())), samples=self.data.train),
        }
        if self.recovery is not None and self.recovery.answers is not None:
            decided["answers"] = "stored"
        if stage.asks_target and target is not None:
            decided |= {"target": target.key}

        def make(folder: Path) -> dict[str, Any]:
            context = self._context(teacher, start, folder / UNFINISHED, target)
            result, _ = run_stage(stage, start.artifact, context, self.recipe.seed)
            surgery.save(folder, result.artifact.plan, result.artifact.module)
            quantize = next((o for o in result.artifact.plan.operations if isinstance(o, Quantize)), None)
            changed = result.artifact.module is not start.artifact.module
            facts = model_facts(result.artifact.stages, result.notes, quantize and quantize.recipe, changed=changed)
            told = {"choices": [asdict(choice) for choice in result.choices], "about": result.about}
            return {**facts, **told, "packed": result.artifact.packed}

        return self.folded(CachedModel(self._cache.step(stage.name, decided, make, together=True)))

    def as_exported(self, made: CachedModel) -> Callable[[Any], list[Any]]:
        """Return the reference of an engine's outputs: ``reference``, and what the task has written behind the model."""
        raw = self.reference(made)
        return lambda inputs: self.task.in_graph(raw(inputs))

    def reference(self, made: CachedModel) -> Callable[[Any], list[Any]]:
        """Return the outputs as a function of inputs: the module's in fp32, or the file's in ONNX Runtime."""
        return self.models.reference(made)

    def calibration_of(self, made: CachedModel) -> Samples:
        """Return the calibration samples of a model, each step of sequences being one."""
        return self.models.calibration_of(made, self.data.calibration)

    def float_model(self, made: CachedModel) -> onnx.ModelProto:
        """Return a model as an ONNX file of floats, its batch norms folded."""
        if made.is_onnx:
            return onnx.load(str(made.step.folder / MODEL))
        return to_onnx(capture(made.artifact.module, self.example))

    def describe(self, made: CachedModel) -> str:
        """Say how a model's outputs are read, where the task chose that by their shapes; empty elsewhere."""
        return self.task.describe(self.reference(made)(as_arrays(self.example)))

    def predictor(self, module: nn.Module) -> Callable[[Any], list[Any]]:
        """Wrap the module in fp32 here, as the task evaluates it."""
        return self._trainer.predictor(module)

    def task_key(self) -> str:
        """Return a key of what the task decides: its loss, its metric, and how it reads outputs."""
        return self._shared.task_key()

    def _attempts_at(self, start: CachedModel) -> Attempts:
        """Return what attempts at a model found; of the last model that was started from."""
        if self._attempts[0] != start.step.key:
            self._attempts = (start.step.key, Attempts())
        return self._attempts[1]

    def _context(self, teacher: CachedModel, start: CachedModel, folder: Path, target: CostModel | None) -> Context:
        module, calibration = self.teachers.frozen(teacher), self.calibration_of(start)
        example = self._shared.example_of(start.artifact.module)
        recipe, price = integer_recipe(self.profile), None if target is None else target.in_float
        taught = self.teachers.key(teacher, self.data.calibration)
        asked = {"teacher": taught, "data": self.data.train.fingerprint(), "seed": self.recipe.seed}
        return Context(
            task=self.task,
            data=replace(self.data, calibration=calibration),
            teacher=module,
            profile=self.profile,
            trainer=self._trainer,
            progress=self._progress,
            example=example,
            shown=self._shared.shown,
            folder=folder,
            outputs=self._cache.root / f"teacher-outputs-{digest(asked)[:20]}",
            engine_teachers=self.teachers.engine_teachers(module, calibration),
            quantization=ModuleQuantizer(recipe, example, calibration, self.observer, price),
            target=target,
            attempts=self._attempts_at(start),
            answers=None if self.recovery is None else self.recovery.answers,
        )
