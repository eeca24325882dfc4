"""A weighted list of named losses, and what of student and teacher each of them reads."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.losses.base import VOCABULARY, PerSampleLoss, TrainingStep, masked_mean
from compress.methods.distillation.engine_teacher import EngineTeachers
from compress.methods.distillation.label_teacher import asked
from compress.methods.distillation.loss_specs import (
    LossSpec,
    asks_example,
    loss_named,
    losses,
    needs_labels,
    parse_losses,
    reads_layers,
    reads_of,
    weight_reads,
    weights,
)
from compress.methods.distillation.loss_weights import Weight, weight_of
from compress.methods.distillation.sample_weights import SampleWeight
from compress.methods.distillation.signals import Layers, Signals
from compress.tasks import Task
from profiles.errors import UserError
from profiles.tables import load_object

__all__ = ["VOCABULARY", "LossSpec", "Objective", "losses", "needs_labels", "parse_losses"]

SEED = 0
"""Of the losses' own parts: they are the same whatever was drawn before, in every process."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One loss at work.

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
    def asked(self) -> tuple[str, ...]:
        """What it and its weight read."""
        return (*self.reads, *weight_reads(self.spec.weight))

    def on(self, given: Mapping[str, Any], moment: TrainingStep) -> tuple[Tensor, Tensor]:
        """The loss on what was read of a batch, and the loss weighted."""
        taken = [given[name] for name in self.reads]
        if isinstance(self.weight, Weight):
            value = self.loss(*taken)
            return value, self.weight.at(moment) * value
        assert isinstance(self.loss, PerSampleLoss)
        values, chosen = self.loss.each(*taken, **self.spec.options)
        return masked_mean(values, chosen), self.weight(values, chosen, *[given[n] for n in weight_reads(self.spec.weight)])


@final
class Objective:
    """The loss of a student on a batch, as a context manager: its hooks are gone when the block ends.

    Args:
        specs: the weighted losses.
        teacher: frozen; needed only when a loss reads from it.
        example: inputs of shape (samples, ...) to find layers and shapes with, when a loss asks for those.
        samples: how many samples are trained on, for losses that remember each.
        trained: whether the student works already: adapters then start fitted on ``example``.
        answering: makes what is asked in the teacher's place.

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
        example: Tensor,
        samples: int = 0,
        answering: EngineTeachers | None = None,
        *,
        trained: bool = False,
    ) -> None:
        self._task, self._student = task, student
        kinds = {name: load_object(reference) for name, reference in weights().items()}
        found = [(spec, loss_named(spec.use)) for spec in specs]
        asked = [(spec, [*reads_of(loss), *weight_reads(spec.weight)]) for spec, loss in found]
        self.reads = {name for _, words in asked for name in words}
        if teacher is None and self.asks_teacher:
            raise UserError("a loss reads the teacher, and there is none here; losses for a teacher are 'task' alone")
        self._readings = Signals(asked, task, student, teacher, example)
        self._teacher, self._engine = teacher, None  # who is asked; and that again where it is an engine
        if answering is not None and self.asks_teacher:
            self._engine = answering.showing(self._readings.names["teacher"], self._readings.heads["teacher"])
            self._teacher = self._engine
        parted = any(asks_example(loss) or weight_reads(spec.weight) for spec, loss in found)
        shown = self._readings.shown(example) if parted else {}
        told = {"samples": samples, "trained": trained}
        self._terms: list[Term] = []
        for (spec, loss), layers in zip(found, self._readings.layers, strict=True):
            own = {**shown, **self._readings.of_layers(layers, shown), **told} if asks_example(loss) else None
            weight = _weight(spec, kinds, shown)
            made = _made(spec, loss, own, weight)
            self._terms.append(Term(spec=spec, loss=made, weight=weight, reads=tuple(reads_of(loss)), layers=layers))
        self.parts = nn.ModuleList(
            part for term in self._terms for part in (term.loss, term.weight) if isinstance(part, nn.Module)
        )

    @property
    def needs_labels(self) -> bool:
        """Whether a loss reads targets."""
        return bool({"task_loss", "targets"} & self.reads)

    @property
    def asks_teacher(self) -> bool:
        """Whether a loss reads anything of the teacher's."""
        return _asks_teacher(self.reads)

    @property
    def asks_plain(self) -> bool:
        """Whether a loss reads the samples without augmentation."""
        return "plain_logits" in self.reads

    def asks_at(self, moment: TrainingStep) -> bool:
        """Whether a loss that has a weight then reads anything of the teacher's."""
        return _asks_teacher(_words(self._at_work(moment)))

    def _at_work(self, moment: TrainingStep) -> list[Term]:
        """The losses whose weight is not 0 then: the others are not computed, nor is anything done for them alone.

        All of them where all weights are 0: a step needs something to go back from.
        """
        idle = [isinstance(term.weight, Weight) and term.weight.at(moment) == 0 for term in self._terms]
        return [term for term, still in zip(self._terms, idle, strict=True) if not still] or self._terms

    def frozen(self) -> list[nn.Module]:
        """The modules besides the student that run in a step."""
        return [self._teacher] if self._teacher is not None and self.asks_teacher else []

    def teacher_key(self, settings: tuple[object, ...]) -> str:
        """A name for what the teacher is asked in a training of these settings: equal questions share their answers."""
        asked = sorted(name for name in self.reads if name.startswith("teacher") and not reads_layers(name))
        return hashlib.sha256(repr((asked, self._readings.names["teacher"], settings)).encode()).hexdigest()[:16]

    def ask_teacher(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """What losses read of the teacher on a batch."""
        assert self._teacher is not None
        with torch.no_grad():
            return self._readings.of("teacher", self._teacher(asked(self._teacher, inputs, targets)))

    def __enter__(self) -> Objective:
        self._readings.watching(self._engine)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._readings.__exit__(kind, error, trace)

    def __call__(
        self,
        forward: Callable[[Tensor], Any],
        inputs: Tensor,
        targets: Tensor,
        teacher: Mapping[str, Any] | None = None,
        moment: TrainingStep | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum on a batch, and each term unweighted by name.

        Args:
            forward: calls the student.
            teacher: what ``ask_teacher`` gave for this batch; asked now when there is none.
            moment: where the training stands; its beginning when there is none.
        """
        moment = TrainingStep() if moment is None else moment
        # before the student, whose activations stay in memory until its backward pass: after it, a step on a CPU took
        # 1.1 times as long (ResNet-56 to ResNet-20, the same loop but for the order)
        terms = self._at_work(moment)
        reads = _words(terms)
        taught = (self.ask_teacher(inputs, targets) if teacher is None else teacher) if _asks_teacher(reads) else {}
        given = {**self._given(forward, inputs, targets, moment, reads), **taught}
        values: list[Tensor] = []
        weighted: list[Tensor] = []
        # Sums over whole maps and batches lose too much in bf16, and a loss's own layers are small.
        with torch.autocast(inputs.device.type, enabled=False):
            for term in terms:
                value, part = term.on({**given, **self._readings.of_layers(term.layers, given)}, moment)
                values.append(value)
                weighted.append(part)
        self._watch(terms, weighted, moment)
        total = torch.zeros((), device=inputs.device)
        for value in weighted:
            total = total + value
        return total, {term.spec.use: value.detach() for term, value in zip(terms, values, strict=True)}

    def _given(
        self, forward: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor, moment: TrainingStep, reads: set[str]
    ) -> dict[str, Any]:
        given: dict[str, Any] = {"targets": targets, "indices": moment.indices}
        given |= {"progress": moment.progress, "epoch": moment.epoch}
        if "plain_logits" in reads:
            plain = inputs if moment.plain is None else moment.plain
            with torch.no_grad():
                given["plain_logits"] = self._task.logits(forward(plain))
        if "again_logits" in reads:  # before the pass whose layers are read
            given["again_logits"] = self._task.logits(forward(inputs))
        outputs = forward(inputs)
        given |= self._readings.of("student", outputs)
        if "task_loss" in reads:
            given["task_loss"] = self._task.loss(outputs, targets)
        return given

    def _watch(self, terms: list[Term], weighted: list[Tensor], moment: TrainingStep) -> None:
        """Tell the weights that watch it their losses' shares of the gradient, in steps in which they ask."""
        watching = {i: term.weight for i, term in enumerate(terms) if isinstance(term.weight, Weight)}
        watching = {i: weight for i, weight in watching.items() if weight.watches and weight.due(moment)}
        if not watching or not torch.is_grad_enabled():
            return
        trained = [p for p in self._student.parameters() if p.requires_grad]
        sizes = [_gradient_size(value, trained) for value in weighted]
        total = sum(sizes)
        for i, weight in watching.items() if total > 0 else ():
            weight.observe(sizes[i] / total)


def _words(terms: Sequence[Term]) -> set[str]:
    """What losses and their weights read."""
    return {word for term in terms for word in term.asked}


def _asks_teacher(reads: set[str]) -> bool:
    return any(word.startswith("teacher") for word in reads)


def _gradient_size(value: Tensor, trained: list[nn.Parameter]) -> float:
    """Sum of the absolute gradient of ``value`` over parameters."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


def _weight(spec: LossSpec, kinds: Mapping[str, Any], shown: Mapping[str, Any]) -> Weight | SampleWeight:
    """The weight of a loss, with the same random parts whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return weight_of(spec.weight, kinds, shown if weight_reads(spec.weight) else None)


def _made(
    spec: LossSpec, loss: Any, example: Mapping[str, Any] | None, weight: Weight | SampleWeight
) -> Callable[..., Tensor]:
    """The loss with its options; one that is a class is made, with the same random parts whatever was drawn before."""
    if isinstance(weight, SampleWeight):
        assert isinstance(loss, PerSampleLoss), "checked with the recipe"
        return loss
    if isinstance(loss, nn.Module):  # given as an object: each training has a copy of its own
        return copy.deepcopy(loss)
    if not isinstance(loss, type):
        return lambda *given: loss(*given, **spec.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made: Callable[..., Tensor] = loss(*([] if example is None else [example]), **spec.options)
    return made
