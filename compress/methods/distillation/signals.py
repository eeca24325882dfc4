"""What losses read of student and teacher: outputs, embeddings and layers, by hooks only where a loss asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.methods.distillation.loss_specs import LossSpec, reads_layers
from compress.models.features import Activations, FeatureHooks, Layout, Pairs, as_map, as_tokens, paired_blocks, paired_maps
from compress.tasks import Task
from profiles.errors import UserError

HOW: dict[str, tuple[Callable[[Layout, Layout], Pairs], Callable[[Tensor], Tensor]]] = {
    "features": (paired_maps, as_map),
    "tokens": (paired_blocks, as_tokens),
    "blocks": (paired_blocks, lambda output: output),
}
"""How layers of student and teacher are paired, and in which layout a loss gets their outputs."""

WHO = ("student", "teacher")
Layers = Mapping[str, list[str]]
"""Names of modules, for each word of the vocabulary that stands for outputs of layers."""


@final
class Signals:
    """Reads student and teacher as losses ask; a context manager: its hooks are gone when the block ends.

    Args:
        asked: each loss and what it reads.
        example: inputs of shape (samples, ...) to find layers with, when a loss asks for those.

    Attributes:
        heads: the layer whose inputs are embeddings, by who has it, where a loss reads them.
        reads: every word that some loss reads.
        layers: what each loss compares, in the order of ``asked``.
        names: the modules whose outputs are kept, by who has them.

    Raises:
        UserError: a loss asks for layers or embeddings that the models do not have.
    """

    def __init__(
        self,
        asked: Sequence[tuple[LossSpec, list[str]]],
        task: Task,
        student: nn.Module,
        teacher: nn.Module | None,
        example: Tensor,
    ) -> None:
        self._task, self._student, self._teacher, self._stack = task, student, teacher, ExitStack()
        self.reads = {word for _, words in asked for word in words}
        self.names: dict[str, list[str]] = {who: [] for who in WHO}
        layouts = self._layouts(example)
        self.heads = {who: self._head(who, layouts) for who in WHO}
        self.layers = [self._chosen(spec, words, layouts) for spec, words in asked]

    def __enter__(self) -> Signals:
        return self.watching()

    def watching(self, answering: Activations | None = None) -> Signals:
        """This, at work until its block ends.

        Args:
            answering: what is asked in the teacher's place, and knows itself what was inside.
        """
        self._inside: dict[str, Activations] = {"student": self._tapped("student", self._student)}
        if answering is not None:
            self._inside["teacher"] = answering
        elif self._teacher is not None and any(word.startswith("teacher") for word in self.reads):
            self._inside["teacher"] = self._tapped("teacher", self._teacher.eval())
        return self

    def _tapped(self, who: str, module: nn.Module) -> FeatureHooks:
        return self._stack.enter_context(FeatureHooks(module, self.names[who], self.heads[who]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def of(self, who: str, outputs: Any) -> dict[str, Any]:
        """What losses read of ``who``, whose outputs on a batch these are; its layers under ``student_layers``."""
        found: dict[str, Any] = {}
        if f"{who}_logits" in self.reads:
            found[f"{who}_logits"] = self._task.logits(outputs)
        if f"{who}_embedding" in self.reads:
            found[f"{who}_embedding"] = self._inside[who].embedding()
        if self.names[who]:
            found[f"{who}_layers"] = self._inside[who].features()
        known = ("logits", "embedding", *HOW)
        if any(word.startswith(f"{who}_") and word.partition("_")[2] not in known for word in self.reads):
            found |= {f"{who}_{name}": signal for name, signal in self._task.signals(outputs).items()}
        return found

    def of_layers(self, layers: Layers, given: Mapping[str, Any]) -> dict[str, list[Tensor]]:
        """The outputs of one loss's layers, in the layout that it reads, from those of all layers."""
        found: dict[str, list[Tensor]] = {}
        for word, names in layers.items():
            who, _, kind = word.partition("_")
            outputs = given[f"{who}_layers"]
            found[word] = [HOW[kind][1](outputs[self.names[who].index(name)]) for name in names]
        return found

    def shown(self, example: Tensor) -> dict[str, Any]:
        """What losses read on an example, for the shapes of their parts."""
        training = self._student.training
        self._student.eval()
        try:
            with torch.no_grad(), self:
                found = self.of("student", self._student(example))
                if self._teacher is not None and "teacher" in self._inside:
                    found |= self.of("teacher", self._teacher(example))
                return found
        finally:
            self._student.train(training)

    def _layouts(self, example: Tensor) -> dict[str, Layout]:
        """What both modules look like inside; looked at only when a loss reads from there."""
        if not any(reads_layers(word) or word.endswith("_embedding") for word in self.reads):
            return {}
        found = {"student": Layout.of(self._student, example)}
        return found if self._teacher is None else {**found, "teacher": Layout.of(self._teacher, example)}

    def _head(self, who: str, layouts: Mapping[str, Layout]) -> str | None:
        """The layer whose inputs are embeddings, where a loss reads them."""
        if f"{who}_embedding" not in self.reads:
            return None
        if layouts[who].head is None:
            raise UserError(
                f"a loss reads embeddings, what the last linear layer reads, and the {who} has no such layer on vectors "
                "(samples, width); drop the loss"
            )
        return layouts[who].head

    def _chosen(self, spec: LossSpec, words: list[str], layouts: Mapping[str, Layout]) -> Layers:
        """The layers that a loss compares, for each word of its own; they will be tapped."""
        found: dict[str, list[str]] = {}
        for word in words:
            if not reads_layers(word):
                continue
            who, _, kind = word.partition("_")
            # a loss that reads the student alone asks nothing of the teacher's inside
            both = layouts["student"], layouts["teacher" if f"teacher_{kind}" in words else "student"]
            pairs = list(spec.layers) or HOW[kind][0](*both)
            _check(spec.use, pairs, both)
            found[word] = [pair[WHO.index(who)] for pair in pairs]
            self.names[who] += dict.fromkeys(name for name in found[word] if name not in self.names[who])
        return found


def _check(loss: str, pairs: Pairs, layouts: tuple[Layout, Layout]) -> None:
    if not pairs:
        raise UserError(f"loss {loss} compares layers, and student and teacher have no feature maps or tokens; drop it")
    for side, (who, layout) in enumerate(zip(WHO, layouts, strict=True)):
        missing = [pair[side] for pair in pairs if pair[side] not in layout.shapes]
        if missing:
            known = list(layout.shapes)
            raise UserError(
                f"loss {loss}: the {who} has no layer {', '.join(missing)} that gives maps or tokens; it has "
                f"{', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
            )
