"""Per-sample weights of losses, for losses that give a value for each sample (``Averaged``)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import TINY, Example, as_float32, flatten_places, masked_mean, of_all_processes, split_labels
from compress.losses.controller import Controller, holdout_mask, logits_after_step
from profiles.errors import UserError


class SampleWeight(nn.Module):
    """Base of per-sample weights of a loss. Subclasses are final.

    ``forward`` reads, after ``values`` and ``chosen``, words of the vocabulary of losses; its parameters are trained with
    the student's, its buffers are kept with the training.
    """

    @abstractmethod
    def forward(self, values: Tensor, chosen: Tensor, *given: Any) -> Tensor:
        """Return the weighted loss, a scalar, of each sample's value and whether it counts, both (samples,)."""


@final
class LearnedWeight(SampleWeight):
    """Weights from 0 to ``most`` by sample, learned by a controller (after TGeo-KD, Hu et al. 2023, paper 55).

    The controller of ``tgeo``, for any loss that gives values by sample: every ``held``-th sample of a batch is held out,
    and the weights of the others are trained so that one step of the student on this loss, unrolled through the last linear
    layer by ``unroll``, lowers the held-out samples' cross-entropy; ``boost`` scales that. Other losses' steps are left out
    of it. Samples without a label weigh as much as at the start, half of ``most``. Logits (samples, classes).
    """

    def __init__(
        self, example: Example, *, most: float = 2.0, held: int = 10, unroll: float = 1.0, boost: float = 10.0
    ) -> None:
        super().__init__()
        if not (most > 0 and held >= 2 and unroll > 0 and boost >= 0):
            raise UserError(
                "weight learned: most and unroll above 0, held of at least 2, boost of at least 0; "
                f"given: most {most}, unroll {unroll}, held {held}, boost {boost}"
            )
        self._most, self._held, self._unroll, self._boost = most, held, unroll, boost
        self.controller = Controller(example["student_logits"].shape[-1])

    def forward(
        self,
        values: Tensor,
        chosen: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_embedding: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """Return the weighted loss, a scalar, and the controller's own where it can learn."""
        where, known = split_labels(student_logits, targets)
        weight = self._most * self.controller(
            flatten_places(student_logits).detach(), flatten_places(teacher_logits), where, known
        )
        weights = torch.where(known, weight, torch.full_like(weight, self._most / 2)).to(values.dtype)
        held = holdout_mask(len(values), self._held, values.device)
        loss = masked_mean(weights.detach() * values, chosen & ~held)
        taught = chosen & ~held
        if not values.requires_grad or not taught.any():
            return loss
        (slope,) = torch.autograd.grad(values[taught].sum(), student_logits, retain_graph=True)
        slope = weights[:, None] * as_float32(slope) / taught.sum()
        stepped = logits_after_step(flatten_places(student_logits).detach(), slope, student_embedding.detach(), self._unroll)
        upper = masked_mean(functional.cross_entropy(stepped, where, reduction="none"), held & known)
        return loss + self._boost * upper


@final
class FamiliarityWeight(SampleWeight):
    """Weights by familiarity with a class: 1 with a label, 0 to 1 without (after WAD, 2023, paper 26).

    The largest pointwise mutual information of the sample and a class over its largest possible value, 0 to 1: with p(c | x)
    the softmax of the cosines of the teacher's embedding to the classes' prototypes over ``temperature``, and p(c) the
    share of labels seen, max over c of log(p(c | x) / p(c)) / -log p(c). A sample of no class is near no prototype more than
    another, and weighs 0. Prototypes are running means of the unit embeddings of samples with a label. The paper could be
    read in an abstract only; the scaling to 0 to 1 is ours. The loss is the weighted mean. Embeddings (samples, width).
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, example: Example, *, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"weight familiar: temperature is above 0; given: {temperature}")
        self._temperature = temperature
        classes, width = example["student_logits"].shape[-1], example["teacher_embedding"].shape[-1]
        self.register_buffer("sums", torch.zeros(classes, width))
        self.register_buffer("counts", torch.zeros(classes))

    def forward(
        self, values: Tensor, chosen: Tensor, student_logits: Tensor, teacher_embedding: Tensor, targets: Tensor
    ) -> Tensor:
        """Return the weighted mean, a scalar."""
        where, known = split_labels(student_logits, targets)
        embedding = functional.normalize(as_float32(teacher_embedding), dim=1, eps=TINY)
        self._learn(*map(of_all_processes, (embedding, where, known)))
        weights = torch.where(known, torch.ones_like(embedding[:, 0]), self.weights(embedding)) * chosen
        return (weights * values).sum() / weights.sum().clamp(min=TINY)

    @torch.no_grad()
    def weights(self, embedding: Tensor) -> Tensor:
        """Compute weights of unlabelled samples from unit embeddings, (samples, width) to (samples,).

        They are 1 until two classes are seen.
        """
        seen = self.counts > 0
        if int(seen.sum()) < 2:
            return torch.ones_like(embedding[:, 0])
        prototypes = functional.normalize(self.sums[seen], dim=1, eps=TINY).to(embedding.dtype)
        prior = (self.counts[seen] / self.counts.sum()).log()
        shared = (embedding @ prototypes.T / self._temperature).log_softmax(dim=1) - prior
        return (shared / -prior).amax(dim=1).clamp(min=0)

    @torch.no_grad()
    def _learn(self, embedding: Tensor, where: Tensor, known: Tensor) -> None:
        one_hot = functional.one_hot(where, len(self.counts)).to(self.sums.dtype) * known[:, None]
        self.counts += one_hot.sum(dim=0)
        self.sums += one_hot.T @ embedding.to(self.sums.dtype)
