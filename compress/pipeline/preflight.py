"""Checks before hours of work: does the data fit the task, do the models take the data, do they export?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from compress.methods.distillation.label_teacher import add_label_channel, append_labels
from compress.methods.distillation.loss_specs import needs_labels, needs_unmixed
from compress.models.checkpoint import checkpoint_path
from compress.models.inputs import as_arrays, as_tensors, call, describe, name_faults, tensors
from compress.models.plan import Plan
from compress.pipeline.cache_keys import code_key
from compress.pipeline.cached_model import model_key
from compress.pipeline.input_states import states_put_first
from compress.pipeline.recovery import preflight_faults
from compress.pipeline.run_context import RunContext
from compress.recipe.spec import BaselineSpec, teacher_plan
from compress.recipe.student import StudentSpec, student_plan
from compress.stages.trained import TrainedStage
from deploy.export import from_onnx
from deploy.export.from_onnx import input_faults
from deploy.export.to_onnx import capture
from deploy.files import sha256
from profiles.errors import UserError


@final
class Preflight:
    """Checks of one recipe."""

    def __init__(self, shared: RunContext) -> None:
        self._shared, self._recipe, self._task, self._data = shared, shared.recipe, shared.task, shared.data
        self._cache, self._example = shared.cache, shared.example

    def all(self) -> None:
        """Run every check; each is a step, so that what fits is not checked again.

        Raises:
            UserError: everything that does not, of the data and then of both models.
        """
        decided = {"data": self._data.fingerprint(), "task": self._shared.task_key()}
        checked = self._cache.step("check-data", decided, lambda folder: {"told": list(self._task.check(self._data) or ())})
        for line in checked.facts["told"]:
            self._shared.progress.say(f"data: {line}")
        if self._recipe.teacher.is_onnx:
            if self._recipe.recovery is not None:
                raise UserError("[recovery]: an .onnx file has no teacher's source code and nothing trains; leave it out")
            self._check_onnx(Path(self._recipe.teacher.model), decided)
            if faults := [fault for spec in self._recipe.baselines for fault in self._baseline(spec, decided)]:
                raise UserError(*faults)
            return
        faults = [] if self._task.has_labels(self._data.train) else self._unlabelled()
        faults += self._faults("teacher", teacher_plan(self._recipe.teacher), decided)
        faults += self._labelled()
        faults += self._mixed()
        for spec in self._recipe.teacher.also:
            faults += self._faults("teacher", Plan(factory=spec.model, arguments=spec.arguments), decided)
        for baseline in self._recipe.baselines:
            faults += self._baseline(baseline, decided)
        if not self._recipe.student.same_as_teacher and self._recipe.student.search is None:
            faults += self._faults("student", student_plan(self._recipe.student), decided)
        faults += [] if faults else self._recovery(decided)
        if faults:
            raise UserError(*faults)

    def _recovery(self, decided: dict[str, Any]) -> list[str]:
        """List why the set that stages are to train on cannot be made."""
        spec = self._recipe.recovery
        if spec is None or spec.set is None:
            return []
        try:
            code = code_key(type(spec.set), preflight_faults)
            about = {**decided, "set": spec.set.decided_by, "code": code}
            self._cache.step("check-recovery", about, lambda folder: self._check_recovery())
        except UserError as error:
            return [*error.faults]
        return []

    def _check_recovery(self) -> None:
        if faults := preflight_faults(self._shared, teacher_plan(self._recipe.teacher).build()):
            raise UserError(*faults)

    def _baseline(self, spec: BaselineSpec, decided: dict[str, Any]) -> list[str]:
        """List why a smaller model cannot be measured, or trained where it has no weights."""
        if spec.model.endswith(".onnx"):
            try:
                self._check_onnx(Path(spec.model), decided)
            except UserError as error:
                return [fault.replace("teacher ", "baseline ", 1) for fault in error.faults]
            return []
        has_weights = spec.weights is not None or spec.pretrained or bool(spec.revision)
        if not has_weights and not self._task.has_labels(self._data.train):
            return [f"baseline {spec.name}: the training data has no labels to train it on; give its weights"]
        return self._faults("baseline", Plan(factory=spec.model, arguments=spec.arguments), decided)

    def student(self, spec: StudentSpec) -> None:
        """Check a student that a search chose.

        Raises:
            UserError: it does not take the data, answer as the task reads it, or export.
        """
        decided = {"data": self._data.fingerprint(), "task": self._shared.task_key()}
        if faults := self._faults("student", student_plan(spec), decided):
            raise UserError(*faults)

    def _check_onnx(self, path: Path, decided: dict[str, Any]) -> None:
        try:
            about = {**decided, "model": sha256(checkpoint_path(str(path)))}
            self._cache.step("check-model", about, lambda folder: self._file(path))
        except UserError as error:
            raise UserError(*[f"teacher {path.name}: {fault}" for fault in error.faults]) from None

    def _unlabelled(self) -> list[str]:
        """List the faults of training data without labels."""
        faults: list[str] = []
        if self._recipe.teacher.weights is None and "teacher" not in self._recipe.names:
            faults.append("teacher: the training data has no labels to train it on; give its weights")
        for stage in self._recipe.stages:
            if isinstance(stage, TrainedStage) and (readers := needs_labels(stage.losses)):
                told = ", ".join(repr(name) for name in readers)
                fact = f"stage {stage.name}: its loss {told} needs labels, and the training data has none"
                faults.append(f"{fact}; leave it out of losses")
        return faults

    def _mixed(self) -> list[str]:
        """List the losses and teachers that do not go with images that show two samples."""
        faults: list[str] = []
        teacher = self._recipe.teacher
        if teacher.cut_mix and (teacher.weights is None or teacher.labelled is not None):
            faults.append("teacher: it learns from labels, and images of cut_mix show two classes; leave cut_mix out")
        for stage in self._recipe.stages:
            if not isinstance(stage, TrainedStage) or not stage.cut_mix:
                continue
            fact = f"stage {stage.name}: images of cut_mix show two samples"
            if readers := needs_unmixed(stage.losses):
                told = ", ".join(repr(name) for name in readers)
                faults.append(f"{fact}, and its loss {told} reads what is true of one; leave it out of losses, or cut_mix")
            if teacher.labelled is not None:
                faults.append(f"{fact}, and the teacher reads labels; leave cut_mix out")
        return faults

    def _labelled(self) -> list[str]:
        """List why the teacher cannot read labels, where the recipe wants it to."""
        if self._recipe.teacher.labelled is None:
            return []
        batch = self._data.train.load(np.arange(2))
        try:
            append_labels(as_tensors(batch.inputs), torch.from_numpy(batch.targets))
            add_label_channel(teacher_plan(self._recipe.teacher).build(), self._example, {"scale": 1.0, "noise": 0.0})
        except UserError as error:
            return list(error.faults)
        return []

    def _faults(self, role: str, plan: Plan, decided: dict[str, Any]) -> list[str]:
        try:
            about = {**decided, "plan": plan.as_json(), "code": model_key(plan)}
            self._cache.step("check-model", about, lambda folder: self.model(plan))
        except UserError as error:
            return [f"{role} {plan.factory}: {fault}" for fault in error.faults]
        return []

    def model(self, plan: Plan) -> None:
        """Raise ``UserError`` unless the plan's model takes the data, answers as the task asks, and exports."""
        module = plan.build()
        if faults := name_faults(module, self._example):
            raise UserError(*faults)
        shown = self._shared.shown
        try:
            with torch.no_grad():
                outputs = call(module.eval(), shown)
        except Exception as error:
            told = describe(shown)
            raise UserError(f"does not take the data's inputs of shape {told}: {str(error).splitlines()[0]}") from error
        self._task.check_outputs(outputs, self._data)
        self._check_ids(module)
        capture(module, self._shared.example_of(module))

    def _check_ids(self, module: nn.Module) -> None:
        """Raise ``UserError`` where the data holds ids that the module does not take: a tokenizer of another model."""
        ends = self._shared.id_ranges
        if not isinstance(self._example, Mapping) or not ends:
            return
        example = {name: tensor.clone() for name, tensor in dict(self._shared.example_of(module)).items()}
        for name, (low, high) in ends.items():
            example[name].flatten()[0], example[name].flatten()[-1] = low, high
        try:
            with torch.no_grad():
                call(module, example)
        except (IndexError, RuntimeError) as error:
            told = ", ".join(f"{name} from {low} to {high}" for name, (low, high) in ends.items())
            reason = str(error).splitlines()[0]
            raise UserError(f"does not take all ids of the data, {told}: {reason}; is the tokenizer the model's?") from error

    def _file(self, path: Path) -> None:
        model, states = from_onnx.read(path), self._shared.serving.states
        if states:
            states_put_first(model, self._recipe.states)
        if faults := input_faults(model, as_arrays(self._example)):
            raise UserError(*faults)
        outputs = [torch.from_numpy(output) for output in from_onnx.first_outputs(model, as_arrays(self._example))]
        if states:
            step = [output for place, output in enumerate(outputs) if place not in {state.output for state in states}]
            steps = tensors(self._shared.shown)[0].shape[1]
            outputs = [torch.stack([each] * steps, 1) if self._shared.serving.every else each for each in step]
        self._task.check_outputs(outputs[0] if len(outputs) == 1 else tuple(outputs), self._data)
