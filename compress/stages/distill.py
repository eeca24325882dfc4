"""The stage ``distill``: a smaller student learns from the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, final

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

from compress.losses.base import TwoHeaded
from compress.losses.embeddings import Align
from compress.methods.distillation import two_heads
from compress.methods.distillation.class_vectors import ClassVectors, choose_scale, scaled_rows
from compress.methods.distillation.loss_specs import loss_inputs, loss_named, losses, parse_losses, two_head_losses
from compress.methods.distillation.operations import Classify, Mix
from compress.methods.distillation.query_budget import STORED_SIGNALS, QueriedSignals, select_queries, uncertainties
from compress.methods.distillation.whitening import whiten
from compress.models.inputs import call
from compress.stages.base import Artifact, Context, StageResult, copy_module
from compress.stages.trained import Losses, TrainedStage
from compress.tasks.classification import Classification
from profiles.errors import UserError

LOSSES = parse_losses(["task", {"use": "cwd", "weight": 3.0}])
"""Of docs/losses.md: twenty points above labels alone in trainings of minutes, and no loss beside it added more to that
than two seeds differ by. Temperature-scaled logits in their usual weight (``kd``) drown it there."""

PATCHES_OF = 2000
"""Training images whose patches the first convolution whitens."""


@final
@dataclass(frozen=True, kw_only=True)
class Distill(TrainedStage):
    """Train the student on the teacher's outputs and feature maps.

    Attributes:
        whiten: whether the first convolution is made to whiten the training images' patches and stays so; for a student
            whose weights are at random, where epochs are few.
        mixture: whether the model then gives the mixture of its own head and the one that a loss (``dho``, ``deit_lt``)
            trained beside it, share and temperature chosen on validation; one graph, one linear layer more.
        class_vectors: whether the head then is the vectors of classes that the loss ``align`` reads as ``texts``, behind the
            layer that it trained: scores are cosines, and a new class is a new row (``compress classes``).
        queries: training samples that the teacher may be asked about, each once; those are trained on. 0 for all, in every
            epoch.
        rounds: in which they are chosen, by the student's doubts at the time; half of the epochs are the last one's.
        distrust: share of the samples on which the teacher may be wrong, which the choice hedges against.
    """

    name = "distill"
    trains_branches = True

    epochs: Annotated[int, Ge(1)] = 30
    learning_rate: Annotated[float, Gt(0)] = 0.1
    losses: Losses = LOSSES
    whiten: bool = False
    mixture: bool = False
    class_vectors: bool = False
    queries: Annotated[int, Ge(0)] = 0
    rounds: Annotated[int, Ge(1)] = 1
    distrust: Annotated[float, Ge(0), Lt(1)] = 0.1

    def requires(self, artifact: Artifact, context: Context) -> None:
        super().requires(artifact, context)
        if self.queries:
            self._check_queries(context)
        if self.mixture:
            self._check_mixture(artifact)
        if self.class_vectors:
            self._check_class_vectors(artifact, context)

    def _check_queries(self, context: Context) -> None:
        faults: list[str] = []
        reads = {word for spec in self.losses for word in loss_inputs(loss_named(spec.use))}
        beyond = sorted(w for w in reads if w == "indices" or (w.startswith("teacher") and w not in STORED_SIGNALS))
        if beyond:
            words = f"losses may read {', '.join(STORED_SIGNALS)} of the teacher; these read {', '.join(beyond)}"
            faults.append(f"stage distill: with queries, {words}")
        if self.cut_mix:
            faults.append("stage distill: queries ask about single samples, and images of cut_mix show two; leave it out")
        if self.mixture:
            faults.append("stage distill: queries and mixture do not go together; write two distill stages")
        if not self.rounds <= min(self.queries, self.epochs):
            given = f"queries = {self.queries}, epochs = {self.epochs}, rounds = {self.rounds}"
            faults.append(f"stage distill: each round needs an epoch and a question; given: {given}; lower rounds")
        if context.task.logits(call(context.teacher.eval(), context.example)).dim() != 2:
            faults.append("stage distill: queries are for a teacher that gives (samples, classes); leave it out")
        if faults:
            raise UserError(*faults)

    def _check_mixture(self, artifact: Artifact) -> None:
        able, given = two_head_losses(losses()), [spec.use for spec in self.losses]
        if len([use for use in given if use in able]) != 1:
            raise UserError(
                "stage distill: mixture = true mixes the model's own head with the one that a loss trains beside it, so "
                f"losses has one of {', '.join(able)}; given: {', '.join(given)}"
            )
        if any(isinstance(operation, Mix) for operation in artifact.plan.operations):
            raise UserError("stage distill: the model gives a mixture already; leave mixture out")

    def _check_class_vectors(self, artifact: Artifact, context: Context) -> None:
        faults: list[str] = []
        texts = [spec.options.get("texts") for spec in self.losses if spec.use == "align"]
        if len(texts) != 1 or not texts[0]:
            words = "class_vectors = true ships the vectors of one loss align with texts = FILE.npy"
            faults.append(f"stage distill: {words}; given: {', '.join(spec.use for spec in self.losses)}")
        if self.mixture or self.queries:
            faults.append("stage distill: class_vectors goes with neither mixture nor queries; write two distill stages")
        if any(isinstance(operation, Classify | Mix) for operation in artifact.plan.operations):
            faults.append("stage distill: the model's head is class vectors or a mixture already; leave class_vectors out")
        if not isinstance(context.task, Classification):
            faults.append("stage distill: class_vectors is for the task classification; leave it out")
        if faults:
            raise UserError(*faults)

    def run(self, artifact: Artifact, context: Context) -> StageResult:
        module = copy_module(artifact)
        first = _whitened(module, context) if self.whiten else None
        result = self._trained(replace(artifact, module=module), context)
        if first is not None:
            first.weight.requires_grad_(True)
        return replace(result, notes=(*self._start(first), *result.notes))

    def _start(self, first: nn.Conv2d | None) -> tuple[str, ...]:
        if not self.whiten:
            return ()
        note = "whitens patches of the training images" if first else "is not one over all channels of an image: left"
        return (f"the first convolution {note}",)

    def _trained(self, artifact: Artifact, context: Context) -> StageResult:
        module = artifact.module
        if self.queries:
            return StageResult(artifact=artifact, notes=(self._queried(module, context),))
        option = "mixture" if self.mixture else "class_vectors" if self.class_vectors else ""
        head = two_heads.find_head(module, context.task, context.example, option) if option else ""
        parts = self.train(module, context)
        if self.class_vectors:
            return _classified(artifact, head, next(part for part in parts or () if isinstance(part, Align)), context)
        second = [part.head for part in parts or () if isinstance(part, TwoHeaded)]
        return _mixed(artifact, head, second[0], context) if self.mixture else StageResult(artifact=artifact)

    def _queried(self, module: nn.Module, context: Context) -> str:
        """Train ``module`` in rounds, on ever more samples that the teacher was asked about; says on how many."""
        answers, train = QueriedSignals(), context.data.train
        scouting = max(1, self.epochs // (2 * max(1, self.rounds - 1)))
        for turn in range(self.rounds):
            count = (turn + 1) * self.queries // self.rounds - turn * self.queries // self.rounds
            worth = uncertainties(module, context.task, train)
            chosen = select_queries(worth, answers.indices, count, self.distrust, (turn, len(train)))
            objective = context.objective(module, self.losses, len(chosen))
            answers.query(objective, train, chosen, context.folder / f"answers-{turn}.safetensors")
            epochs = self.epochs - scouting * (self.rounds - 1) if turn == self.rounds - 1 else scouting
            self.train(module, context, part=f"round-{turn}", epochs=epochs, answers=answers)
        return f"the teacher was asked about {len(answers.indices)} of {len(train)} samples, once each"


def _whitened(module: nn.Module, context: Context) -> nn.Conv2d | None:
    """Make the first convolution of ``module`` whiten, and freeze it; return it, None where it cannot."""
    images = next(context.data.train.evenly_spaced_batches(PATCHES_OF, PATCHES_OF)).inputs
    if isinstance(images, Mapping):
        return None
    first = whiten(module, torch.from_numpy(images))
    if first is not None:
        first.weight.requires_grad_(False)
    return first


def _mixed(artifact: Artifact, head: str, second: nn.Linear, context: Context) -> StageResult:
    """Replace the head by the best mixture on validation; the artifact stays where its own head alone is best."""
    result = two_heads.search_mixture(artifact.module, head, second, context.task, context.data.validation)
    if result.share == 1:
        return StageResult(artifact=artifact, notes=("no mixture of two heads is better on validation than its own head",))
    mixture = f"{result.share:.0%} own head, the other at temperature {result.temperature:g}"
    note = f"the model gives a mixture: {mixture}; validation {result.alone:.2f} -> {result.value:.2f}"
    mix = Mix(head=head, share=result.share, temperature=result.temperature)
    module = mix.apply(artifact.module)
    module.get_submodule(f"{head}.second").load_state_dict(second.state_dict())
    return StageResult(artifact=artifact.changed(mix, module), notes=(note,))


def _classified(artifact: Artifact, head: str, align: Align, context: Context) -> StageResult:
    """Replace the head by the class vectors of a loss, behind the layer that it trained."""
    vectors, module, validation = align.texts.cpu(), artifact.module, context.data.validation
    scale = choose_scale(module, head, align.adapter, vectors, validation)
    operation = Classify(head=head, width=vectors.shape[1], classes=len(vectors))
    changed = operation.apply(module)
    placed = changed.get_submodule(head)
    assert isinstance(placed, ClassVectors)
    placed.projection.load_state_dict(align.adapter.state_dict())
    placed.vectors.data.copy_(scaled_rows(vectors, scale))
    note = f"the head is {len(vectors)} class vectors of width {vectors.shape[1]}, cosines times {scale:g}"
    return StageResult(artifact=artifact.changed(operation, changed.eval()), notes=(note,))
