"""The weighted sum of losses between student and teacher."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.losses.base import VOCABULARY, PerSampleLoss, TrainingStep, masked_mean, of_all_processes
from compress.methods.distillation.engine_teacher import EngineTeachers
from compress.methods.distillation.label_teacher import teacher_inputs
from compress.methods.distillation.loss_specs import (
    LossSpec,
    is_layer_input,
    loss_inputs,
    loss_named,
    losses,
    needs_example,
    needs_labels,
    parse_losses,
    weight_inputs,
    weights,
)
from compress.methods.distillation.loss_weights import Weight, make_weight
from compress.methods.distillation.sample_weights import SampleWeight
from compress.methods.distillation.signals import Layers, Signals
from compress.models.inputs import ModelInputs, call, device_of
from compress.tasks import Task
from profiles.errors import UserError
from profiles.tables import load_object

__all__ = ["VOCABULARY", "LossSpec", "Objective", "losses", "needs_labels", "parse_losses"]

SEED = 0
"""Of the losses' own parts: they are the same whatever was drawn before, in every process."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One loss of the objective, with its weight and inputs.

    Attributes:
        loss: the function, or the module with parts of its own.
        layers: what it compares, for each word of ``reads`` that stands for layers.
    """

    spec: LossSpec
    loss: Callable[..., Tensor]
    weight: Weight | SampleWeight
    reads: tuple[str, ...]
    layers: Layers

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs of the loss and its weight."""
        return (*self.reads, *weight_inputs(self.spec.weight))

    def evaluate(self, given: Mapping[str, Any], step: TrainingStep) -> tuple[Tensor, Tensor]:
        """Compute the loss on a batch's signals, unweighted and weighted."""
        taken = [given[name] for name in self.reads]
        if isinstance(self.weight, Weight):
            value = self.loss(*taken)
            return value, self.weight.at(step) * value
        assert isinstance(self.loss, PerSampleLoss)
        values, chosen = self.loss.each(*taken, **self.spec.options)
        return masked_mean(values, chosen), self.weight(values, chosen, *[given[n] for n in weight_inputs(self.spec.weight)])


@final
class Objective:
    """The loss of a student on a batch, as a context manager: its hooks are removed when the block ends.

    Args:
        specs: the weighted losses.
        teacher: frozen; needed only when a loss reads from it.
        example: inputs of shape (samples, ...) to find layers and shapes with, when a loss asks for those.
        samples: how many samples are trained on, for losses that remember each.
        trained: whether the student works already: adapters then start fitted on ``example``.
        engine_teachers: engines that stand for the teacher.

    Attributes:
        parts: what losses and weights have of their own: trained with the student, kept with the training, and no part of
            what is exported.

    Raises:
        UserError: a loss needs a teacher and there is none, or layers that student and teacher do not have.
    """

    def __init__(
        self,
        specs: tuple[LossSpec, ...],
        task: Task,
        student: nn.Module,
        teacher: nn.Module | None,
        example: ModelInputs,
        samples: int = 0,
        engine_teachers: EngineTeachers | None = None,
        *,
        trained: bool = False,
    ) -> None:
        self._task, self._student = task, student
        kinds = {name: load_object(reference) for name, reference in weights().items()}
        loaded = [(spec, loss_named(spec.use)) for spec in specs]
        inputs = [(spec, [*loss_inputs(loss), *weight_inputs(spec.weight)]) for spec, loss in loaded]
        self.reads = {name for _, words in inputs for name in words}
        if teacher is None and self.needs_teacher:
            raise UserError("a loss reads the teacher, and there is none here; losses for a teacher are 'task' alone")
        self._signals = Signals(inputs, task, student, teacher, example)
        self._teacher, self._engine = teacher, None  # the teacher that runs; and the same where it is an engine
        if engine_teachers is not None and self.needs_teacher:
            self._engine = engine_teachers.teacher_for(self._signals.names["teacher"], self._signals.heads["teacher"])
            self._teacher = self._engine
        has_parts = any(needs_example(loss) or weight_inputs(spec.weight) for spec, loss in loaded)
        signals = self._signals.example_signals(example) if has_parts else {}
        facts = {"samples": samples, "trained": trained}
        self._terms: list[Term] = []
        for (spec, loss), layers in zip(loaded, self._signals.layers, strict=True):
            own = {**signals, **self._signals.layer_outputs(layers, signals), **facts} if needs_example(loss) else None
            weight = _weight(spec, kinds, signals)
            built = _build_loss(spec, loss, own, weight)
            self._terms.append(Term(spec=spec, loss=built, weight=weight, reads=tuple(loss_inputs(loss)), layers=layers))
        self.parts = nn.ModuleList(
            part for term in self._terms for part in (term.loss, term.weight) if isinstance(part, nn.Module)
        )

    @property
    def needs_labels(self) -> bool:
        """Return whether a loss reads targets."""
        return bool({"task_loss", "targets"} & self.reads)

    @property
    def needs_teacher(self) -> bool:
        """Return whether a loss reads a signal of the teacher."""
        return _reads_teacher(self.reads)

    @property
    def needs_plain(self) -> bool:
        """Return whether a loss reads the samples without augmentation."""
        return "plain_logits" in self.reads

    @property
    def reads_gradients(self) -> bool:
        """Whether a loss's weight measures shares of the gradient."""
        return any(isinstance(term.weight, Weight) and term.weight.observes_gradient for term in self._terms)

    def needs_teacher_at(self, step: TrainingStep) -> bool:
        """Return whether a loss with a weight above 0 in this step reads a signal of the teacher."""
        return _reads_teacher(_inputs_of(self._active(step)))

    def _active(self, step: TrainingStep) -> list[Term]:
        """Return the losses with a weight above 0: the others are not computed, nor is anything done for them alone.

        All of them where all weights are 0: a step needs something to go back from.
        """
        idle = [isinstance(term.weight, Weight) and term.weight.at(step) == 0 for term in self._terms]
        return [term for term, still in zip(self._terms, idle, strict=True) if not still] or self._terms

    def frozen(self) -> list[nn.Module]:
        """Return the modules besides the student that run in a step."""
        return [self._teacher] if self._teacher is not None and self.needs_teacher else []

    def teacher_key(self, settings: tuple[object, ...]) -> str:
        """Return a key of the teacher's signals under these settings: trainings with equal keys share a cache."""
        signals = sorted(name for name in self.reads if name.startswith("teacher") and not is_layer_input(name))
        return hashlib.sha256(repr((signals, self._signals.names["teacher"], settings)).encode()).hexdigest()[:16]

    def teacher_signals(self, inputs: ModelInputs, targets: Tensor) -> dict[str, Any]:
        """Compute the teacher's signals on a batch."""
        assert self._teacher is not None
        with torch.no_grad():
            return self._signals.of("teacher", call(self._teacher, teacher_inputs(self._teacher, inputs, targets)))

    def __enter__(self) -> Objective:
        self._signals.attach(self._engine)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signals.__exit__(kind, error, trace)

    def __call__(
        self,
        forward: Callable[..., Any],
        inputs: ModelInputs,
        targets: Tensor,
        teacher: Mapping[str, Any] | None = None,
        step: TrainingStep | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum on a batch, and each term unweighted by name.

        Args:
            forward: calls the student.
            teacher: what ``teacher_signals`` gave for this batch; computed now when there is none.
            step: where the training stands; its beginning when there is none.
        """
        step = TrainingStep() if step is None else step
        # before the student, whose activations stay in memory until its backward pass: after it, a step on a CPU took
        # 1.1 times as long (ResNet-56 to ResNet-20, the same loop but for the order)
        terms = self._active(step)
        reads = _inputs_of(terms)
        of_teacher = (self.teacher_signals(inputs, targets) if teacher is None else teacher) if _reads_teacher(reads) else {}
        given = {**self._given(forward, inputs, targets, step, reads), **of_teacher}
        values: list[Tensor] = []
        weighted: list[Tensor] = []
        # Sums over whole maps and batches lose too much in bf16, and a loss's own layers are small.
        with torch.autocast(device_of(inputs).type, enabled=False):
            for term in terms:
                value, part = term.evaluate({**given, **self._signals.layer_outputs(term.layers, given)}, step)
                values.append(value)
                weighted.append(part)
        self._observe_gradients(terms, weighted, step)
        total = torch.zeros((), device=device_of(inputs))
        for value in weighted:
            total = total + value
        return total, {term.spec.use: value.detach() for term, value in zip(terms, values, strict=True)}

    def _given(
        self, forward: Callable[..., Any], inputs: ModelInputs, targets: Tensor, step: TrainingStep, reads: set[str]
    ) -> dict[str, Any]:
        given: dict[str, Any] = {"targets": targets, "indices": step.indices}
        given |= {"progress": step.progress, "epoch": step.epoch}
        if "plain_logits" in reads:
            plain = inputs if step.plain is None else step.plain
            with torch.no_grad():
                given["plain_logits"] = self._task.logits(call(forward, plain))
        if "again_logits" in reads:  # before the pass whose layers are read
            given["again_logits"] = self._task.logits(call(forward, inputs))
        outputs = call(forward, inputs)
        given |= self._signals.of("student", outputs)
        if "task_loss" in reads:
            given["task_loss"] = self._task.loss_of(self._student)(outputs, targets)
        return given

    def _observe_gradients(self, terms: list[Term], weighted: list[Tensor], step: TrainingStep) -> None:
        """Record the losses' shares of the gradient in the weights that observe it, in steps in which they measure."""
        observers = {i: term.weight for i, term in enumerate(terms) if isinstance(term.weight, Weight)}
        observers = {i: weight for i, weight in observers.items() if weight.observes_gradient and weight.measures_at(step)}
        if not observers or not torch.is_grad_enabled():
            return
        trained = [p for p in self._student.parameters() if p.requires_grad]
        sizes = torch.tensor([_gradient_size(value, trained) for value in weighted], dtype=torch.float64)
        sizes = of_all_processes(sizes[None].to(weighted[0].device)).sum(dim=0)
        total = float(sizes.sum())
        for i, weight in observers.items() if total > 0 else ():
            weight.observe(float(sizes[i]) / total)


def _inputs_of(terms: Sequence[Term]) -> set[str]:
    """Return the inputs of losses and their weights."""
    return {word for term in terms for word in term.inputs}


def _reads_teacher(reads: set[str]) -> bool:
    return any(word.startswith("teacher") for word in reads)


def _gradient_size(value: Tensor, trained: list[nn.Parameter]) -> float:
    """Compute the sum of the absolute gradient of ``value`` over parameters."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


def _weight(spec: LossSpec, kinds: Mapping[str, Any], example: Mapping[str, Any]) -> Weight | SampleWeight:
    """Build the weight of a loss, with the same random parts whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return make_weight(spec.weight, kinds, example if weight_inputs(spec.weight) else None)


def _build_loss(
    spec: LossSpec, loss: Any, example: Mapping[str, Any] | None, weight: Weight | SampleWeight
) -> Callable[..., Tensor]:
    """Bind the options of a loss; a class is built with the same random parts whatever was drawn before."""
    if isinstance(weight, SampleWeight):
        assert isinstance(loss, PerSampleLoss), "checked with the recipe"
        return loss
    if isinstance(loss, nn.Module):  # given as an object: each training has a copy of its own
        return copy.deepcopy(loss)
    if not isinstance(loss, type):
        return lambda *given: loss(*given, **spec.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        built: Callable[..., Tensor] = loss(*([] if example is None else [example]), **spec.options)
    return built
