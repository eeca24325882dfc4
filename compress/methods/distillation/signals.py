"""Signals that losses read of student and teacher: outputs, embeddings and layers, hooked only where a loss reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.methods.distillation.loss_specs import LossSpec, is_layer_input
from compress.models.features import (
    FeatureHooks,
    FeatureSource,
    LayerPairs,
    ModuleLayers,
    as_map,
    as_tokens,
    pair_blocks,
    pair_maps,
)
from compress.models.inputs import ModelInputs, call
from compress.tasks import Task
from profiles.errors import UserError

LAYOUTS: dict[str, tuple[Callable[[ModuleLayers, ModuleLayers], LayerPairs], Callable[[Tensor, str], Tensor]]] = {
    "features": (pair_maps, as_map),
    "tokens": (pair_blocks, as_tokens),
    "blocks": (pair_blocks, lambda output, layout: output),
}
"""How layers of student and teacher are paired, and in which layout a loss gets their outputs."""

ROLES = ("student", "teacher")
Layers = Mapping[str, list[str]]
"""Names of modules, for each word of the vocabulary that stands for outputs of layers."""


@final
class Signals:
    """Signals of student and teacher, as a context manager: its hooks are removed when the block ends.

    Args:
        inputs: each loss and what it reads.
        example: inputs of shape (samples, ...) to find layers with, when a loss asks for those.

    Attributes:
        heads: the layer whose inputs are embeddings, by who has it, where a loss reads them.
        reads: every word that some loss reads.
        layers: what each loss compares, in the order of ``inputs``.
        names: the modules whose outputs are kept, by who has them.

    Raises:
        UserError: a loss asks for layers or embeddings that the models do not have.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[LossSpec, list[str]]],
        task: Task,
        student: nn.Module,
        teacher: nn.Module | None,
        example: ModelInputs,
    ) -> None:
        self._task, self._student, self._teacher, self._stack = task, student, teacher, ExitStack()
        self.reads = {word for _, words in inputs for word in words}
        self.names: dict[str, list[str]] = {who: [] for who in ROLES}
        self._layers_of = layouts = self._layouts(example)
        self.heads = {who: self._head(who, layouts) for who in ROLES}
        self.layers = [self._chosen(spec, words, layouts) for spec, words in inputs]

    def __enter__(self) -> Signals:
        return self.attach()

    def attach(self, source: FeatureSource | None = None) -> Signals:
        """Attach the hooks until the block ends.

        Args:
            source: features of an engine that stands for the teacher.
        """
        self._inside: dict[str, FeatureSource] = {"student": self._tapped("student", self._student)}
        if source is not None:
            self._inside["teacher"] = source
        elif self._teacher is not None and any(word.startswith("teacher") for word in self.reads):
            self._inside["teacher"] = self._tapped("teacher", self._teacher.eval())
        return self

    def _tapped(self, who: str, module: nn.Module) -> FeatureHooks:
        return self._stack.enter_context(FeatureHooks(module, self.names[who], self.heads[who]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def of(self, who: str, outputs: Any) -> dict[str, Any]:
        """Collect the signals of ``who`` from its outputs on a batch; its layers under ``student_layers``."""
        signals: dict[str, Any] = {}
        if f"{who}_logits" in self.reads:
            signals[f"{who}_logits"] = self._task.logits(outputs)
        if f"{who}_embedding" in self.reads:
            signals[f"{who}_embedding"] = self._inside[who].embedding()
        if self.names[who]:
            signals[f"{who}_layers"] = self._inside[who].features()
        known = ("logits", "embedding", *LAYOUTS)
        if any(word.startswith(f"{who}_") and word.partition("_")[2] not in known for word in self.reads):
            signals |= {f"{who}_{name}": value for name, value in self._task.signals(outputs).items()}
            missing = [w for w in sorted(self.reads) if w.startswith(f"{who}_") and w not in signals and w[8:] not in known]
            if missing:
                fact = f"a loss reads {', '.join(missing)}, and the {who}'s outputs have none"
                raise UserError(f"{fact}; they give {', '.join(name for name in signals if not name.endswith('_layers'))}")
        return signals

    def layer_outputs(self, layers: Layers, given: Mapping[str, Any]) -> dict[str, list[Tensor]]:
        """Select one loss's layers from the outputs of all, in the layout that it reads."""
        selected: dict[str, list[Tensor]] = {}
        for word, names in layers.items():
            who, _, kind = word.partition("_")
            outputs = given[f"{who}_layers"]
            kinds = self._layers_of[who].layouts
            selected[word] = [LAYOUTS[kind][1](outputs[self.names[who].index(name)], kinds[name]) for name in names]
        return selected

    def example_signals(self, example: ModelInputs) -> dict[str, Any]:
        """Collect the signals on an example, for the shapes of losses' parts."""
        training = self._student.training
        self._student.eval()
        try:
            with torch.no_grad(), self:
                signals = self.of("student", call(self._student, example))
                if self._teacher is not None and "teacher" in self._inside:
                    signals |= self.of("teacher", call(self._teacher, example))
                return signals
        finally:
            self._student.train(training)

    def _layouts(self, example: ModelInputs) -> dict[str, ModuleLayers]:
        """Trace both modules, where a loss reads layers or embeddings."""
        if not any(is_layer_input(word) or word.endswith("_embedding") for word in self.reads):
            return {}
        traces = {"student": ModuleLayers.of(self._student, example)}
        return traces if self._teacher is None else {**traces, "teacher": ModuleLayers.of(self._teacher, example)}

    def _head(self, who: str, layouts: Mapping[str, ModuleLayers]) -> str | None:
        """Return the layer whose inputs are embeddings, where a loss reads them."""
        if f"{who}_embedding" not in self.reads:
            return None
        if layouts[who].head is None:
            raise UserError(
                f"a loss reads embeddings, what the last linear layer reads, and the {who} has no such layer on vectors "
                "(samples, width); drop the loss"
            )
        return layouts[who].head

    def _chosen(self, spec: LossSpec, words: list[str], layouts: Mapping[str, ModuleLayers]) -> Layers:
        """Return the layers that a loss compares, for each of its inputs, and mark them to be hooked."""
        chosen: dict[str, list[str]] = {}
        for word in words:
            if not is_layer_input(word):
                continue
            who, _, kind = word.partition("_")
            # a loss that reads the student alone asks nothing of the teacher's inside
            both = layouts["student"], layouts["teacher" if f"teacher_{kind}" in words else "student"]
            pairs = list(spec.layers) or LAYOUTS[kind][0](*both)
            _check(spec.use, pairs, both)
            chosen[word] = [pair[ROLES.index(who)] for pair in pairs]
            self.names[who] += dict.fromkeys(name for name in chosen[word] if name not in self.names[who])
        return chosen


def _check(loss: str, pairs: LayerPairs, layouts: tuple[ModuleLayers, ModuleLayers]) -> None:
    if not pairs:
        raise UserError(f"loss {loss} compares layers, and student and teacher have no feature maps or tokens; drop it")
    for side, (who, layout) in enumerate(zip(ROLES, layouts, strict=True)):
        missing = [pair[side] for pair in pairs if pair[side] not in layout.shapes]
        if missing:
            known = list(layout.shapes)
            raise UserError(
                f"loss {loss}: the {who} has no layer {', '.join(missing)} that gives maps or tokens; it has "
                f"{', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
            )
