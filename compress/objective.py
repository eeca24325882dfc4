"""A weighted list of named losses, and what of student and teacher each of them reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.loss_specs import LossSpec, asks_example, losses, needs_labels, parse_losses, reads_layers, reads_of, weights
from compress.losses.base import VOCABULARY
from compress.moment import Moment
from compress.schedule import Schedule
from compress.taps import Layout, Pairs, Taps, as_map, as_tokens, paired_blocks, paired_maps
from compress.tasks import Task
from compress.weights import Weight, weight_of
from profiles.errors import UserError
from profiles.tables import load_object

__all__ = ["VOCABULARY", "LossSpec", "Objective", "losses", "needs_labels", "parse_losses"]

HOW: dict[str, tuple[Callable[[Layout, Layout], Pairs], Callable[[Tensor], Tensor]]] = {
    "features": (paired_maps, as_map),
    "tokens": (paired_blocks, as_tokens),
    "blocks": (paired_blocks, lambda output: output),
}
"""How layers of student and teacher are paired, and in which layout a loss gets their outputs."""

WHO = ("student", "teacher")
Layers = Mapping[str, list[str]]
"""Names of modules, for each word of the vocabulary that stands for outputs of layers."""

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
    weight: Weight
    reads: tuple[str, ...]
    layers: Layers


@final
class Objective:
    """The loss of a student on a batch, as a context manager: its hooks are gone when the block ends.

    Args:
        specs: the weighted losses.
        teacher: frozen; needed only when a loss reads from it.
        example: inputs of shape (samples, ...) to find layers and shapes with, when a loss asks for those.
        samples: how many samples are trained on, for losses that remember each.

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
    ) -> None:
        self._task, self._student, self._teacher = task, student, teacher
        kinds = {name: load_object(reference) for name, reference in weights().items()}
        found = [(spec, load_object(losses()[spec.use])) for spec in specs]
        self.reads = {name for _, loss in found for name in reads_of(loss)}
        if teacher is None and self.asks_teacher:
            raise UserError("a loss reads the teacher, and there is none here; losses for a teacher are 'task' alone")
        layouts = self._layouts(example)
        self._heads = _heads(self.reads, layouts)
        self._names: dict[str, list[str]] = {who: [] for who in WHO}
        planned = [(spec, loss, self._chosen(spec, loss, layouts)) for spec, loss in found]
        self._stack = ExitStack()
        shown = self._shown(example) if any(asks_example(loss) for _, loss in found) else {}
        self._terms = [
            Term(
                spec=spec,
                loss=_made(spec, loss, {**shown, **(self._layers(layers, shown) if shown else {})}, samples),
                weight=weight_of(spec.weight, kinds),
                reads=tuple(reads_of(loss)),
                layers=layers,
            )
            for spec, loss, layers in planned
        ]
        own = [part for term in self._terms for part in (term.loss, term.weight) if isinstance(part, nn.Module)]
        self.parts = nn.ModuleList(own)

    @property
    def needs_labels(self) -> bool:
        """Whether a loss reads targets."""
        return bool({"task_loss", "targets"} & self.reads)

    @property
    def asks_teacher(self) -> bool:
        """Whether a loss reads anything of the teacher's."""
        return any(name.startswith("teacher") for name in self.reads)

    @property
    def asks_plain(self) -> bool:
        """Whether a loss reads the samples without augmentation."""
        return "plain_logits" in self.reads

    def frozen(self) -> list[nn.Module]:
        """The modules besides the student that run in a step."""
        return [self._teacher] if self._teacher is not None and self.asks_teacher else []

    def teacher_key(self, schedule: Schedule) -> str:
        """A name for what the teacher is asked in the course of a schedule: equal questions share their answers."""
        asked = sorted(name for name in self.reads if name.startswith("teacher") and not reads_layers(name))
        settings = (schedule.batch_size, schedule.accumulate, schedule.realisations, schedule.self_mix)
        return hashlib.sha256(repr((asked, self._names["teacher"], settings)).encode()).hexdigest()[:16]

    def ask_teacher(self, inputs: Tensor) -> dict[str, Any]:
        """What losses read of the teacher on a batch."""
        assert self._teacher is not None
        with torch.no_grad():
            found = self._read("teacher", self._teacher(inputs), self._teacher_taps)
        if self._names["teacher"]:
            found["teacher_layers"] = self._teacher_taps.features()
        return found

    def __enter__(self) -> Objective:
        self._student_taps = self._stack.enter_context(Taps(self._student, self._names["student"], self._heads[0]))
        if self._teacher is not None and self.asks_teacher:
            self._teacher.eval()
            self._teacher_taps = self._stack.enter_context(Taps(self._teacher, self._names["teacher"], self._heads[1]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __call__(
        self,
        forward: Callable[[Tensor], Any],
        inputs: Tensor,
        targets: Tensor,
        teacher: Mapping[str, Any] | None = None,
        moment: Moment | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum on a batch, and each term unweighted by name.

        Args:
            forward: calls the student.
            teacher: what ``ask_teacher`` gave for this batch; asked now when there is none.
            moment: where the training stands; its beginning when there is none.
        """
        moment = Moment() if moment is None else moment
        given = self._given(forward, inputs, targets, moment)
        if self.asks_teacher:
            given |= self.ask_teacher(inputs) if teacher is None else teacher
        values: list[Tensor] = []
        # Sums over whole maps and batches lose too much in bf16, and a loss's own layers are small.
        with torch.autocast(inputs.device.type, enabled=False):
            for term in self._terms:
                known = {**given, **self._layers(term.layers, given)}
                values.append(term.loss(*[known[name] for name in term.reads]))
        weighted = [term.weight.at(moment) * value for term, value in zip(self._terms, values, strict=True)]
        self._watch(weighted, moment)
        total = torch.zeros((), device=inputs.device)
        for value in weighted:
            total = total + value
        return total, {term.spec.use: value.detach() for term, value in zip(self._terms, values, strict=True)}

    def _given(self, forward: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor, moment: Moment) -> dict[str, Any]:
        given: dict[str, Any] = {"targets": targets, "indices": moment.indices}
        given |= {"progress": moment.progress, "epoch": moment.epoch}
        if self.asks_plain:
            plain = inputs if moment.plain is None else moment.plain
            with torch.no_grad():
                given["plain_logits"] = self._task.logits(forward(plain))
        outputs = forward(inputs)
        given |= self._read("student", outputs, self._student_taps)
        if self._names["student"]:
            given["student_layers"] = self._student_taps.features()
        if "task_loss" in self.reads:
            given["task_loss"] = self._task.loss(outputs, targets)
        return given

    def _read(self, who: str, outputs: Any, taps: Taps) -> dict[str, Any]:
        """What the task reads from outputs, as far as a loss asks for it, and what a head read."""
        found: dict[str, Any] = {}
        if f"{who}_logits" in self.reads:
            found[f"{who}_logits"] = self._task.logits(outputs)
        if f"{who}_embedding" in self.reads:
            found[f"{who}_embedding"] = taps.embedding()
        known = ("logits", "embedding", *HOW)
        if any(name.startswith(f"{who}_") and name.partition("_")[2] not in known for name in self.reads):
            found |= {f"{who}_{name}": signal for name, signal in self._task.signals(outputs).items()}
        return found

    def _layers(self, words: Layers, given: Mapping[str, Any]) -> dict[str, list[Tensor]]:
        """The outputs of one loss's layers, in the layout that it reads, from those of all layers."""
        found: dict[str, list[Tensor]] = {}
        for word, names in words.items():
            who, _, kind = word.partition("_")
            outputs = given[f"{who}_layers"]
            found[word] = [HOW[kind][1](outputs[self._names[who].index(name)]) for name in names]
        return found

    def _layouts(self, example: Tensor) -> tuple[Layout, Layout] | None:
        """What both modules look like inside; looked at only when a loss reads from there."""
        inside = any(reads_layers(name) or name.endswith("_embedding") for name in self.reads)
        if not inside:
            return None
        ours = Layout.of(self._student, example)
        return ours, ours if self._teacher is None else Layout.of(self._teacher, example)

    def _chosen(self, spec: LossSpec, loss: Callable[..., Any], layouts: tuple[Layout, Layout] | None) -> Layers:
        """The layers that a loss compares, for each word of its own; they will be tapped."""
        found: dict[str, list[str]] = {}
        words = [name for name in reads_of(loss) if reads_layers(name)]
        for word in words:
            assert layouts is not None
            who, _, kind = word.partition("_")
            both = layouts if f"teacher_{kind}" in words else (layouts[0], layouts[0])
            pairs = list(spec.layers) or HOW[kind][0](*both)
            _check(spec.use, pairs, both)
            found[word] = [pair[WHO.index(who)] for pair in pairs]
            self._names[who] += dict.fromkeys(name for name in found[word] if name not in self._names[who])
        return found

    def _shown(self, example: Tensor) -> dict[str, Any]:
        """What the losses read, on the example, for the shapes of their parts."""
        training = self._student.training
        self._student.eval()
        try:
            with torch.no_grad(), self:
                shown = self._read("student", self._student(example), self._student_taps)
                if self._names["student"]:
                    shown["student_layers"] = self._student_taps.features()
                return {**shown, **(self.ask_teacher(example) if self.asks_teacher else {})}
        finally:
            self._student.train(training)

    def _watch(self, weighted: list[Tensor], moment: Moment) -> None:
        """Tell the weights that watch it their losses' shares of the gradient, in steps in which they ask."""
        watching = [i for i, term in enumerate(self._terms) if term.weight.watches and term.weight.due(moment)]
        if not watching or not torch.is_grad_enabled():
            return
        trained = [p for p in self._student.parameters() if p.requires_grad]
        sizes = [_gradient_size(value, trained) for value in weighted]
        total = sum(sizes)
        for i in watching if total > 0 else ():
            self._terms[i].weight.observe(sizes[i] / total)


def _gradient_size(value: Tensor, trained: list[nn.Parameter]) -> float:
    """Sum of the absolute gradient of ``value`` over parameters."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


def _made(spec: LossSpec, loss: Any, example: Mapping[str, Any], samples: int) -> Callable[..., Tensor]:
    """The loss with its options; one that is a class is made, with the same random parts whatever was drawn before."""
    if not isinstance(loss, type):
        return lambda *given: loss(*given, **spec.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        arguments = [{**example, "samples": samples}] if asks_example(loss) else []
        made: Callable[..., Tensor] = loss(*arguments, **spec.options)
    return made


def _heads(reads: set[str], layouts: tuple[Layout, Layout] | None) -> tuple[str | None, str | None]:
    """The layers whose inputs are embeddings, where a loss reads them."""
    found: list[str | None] = []
    for side, who in enumerate(("student", "teacher")):
        head = layouts[side].head if layouts and f"{who}_embedding" in reads else None
        if head is None and f"{who}_embedding" in reads:
            raise UserError(
                f"a loss reads embeddings, what the last linear layer reads, and the {who} has no such layer on vectors "
                "(samples, width); drop the loss"
            )
        found.append(head)
    return found[0], found[1]


def _check(loss: str, pairs: Pairs, layouts: tuple[Layout, Layout]) -> None:
    if not pairs:
        raise UserError(f"loss {loss} compares layers, and student and teacher have no feature maps or tokens; drop it")
    for who, layout, side in (("student", layouts[0], 0), ("teacher", layouts[1], 1)):
        missing = [pair[side] for pair in pairs if pair[side] not in layout.shapes]
        if missing:
            known = list(layout.shapes)
            raise UserError(
                f"loss {loss}: the {who} has no layer {', '.join(missing)} that gives maps or tokens; it has "
                f"{', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
            )
