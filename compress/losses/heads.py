"""Losses with a second head on the student's embedding, exported only on request of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import (
    Example,
    Temperature,
    TwoHeaded,
    as_float32,
    flatten_places,
    kl_divergence,
    load_npy,
    log_probabilities,
    masked_mean,
    of_all_processes,
    split_labels,
)
from profiles.errors import UserError


@final
class Dho(TwoHeaded):
    """Cross-entropy on the student's head, KL to the teacher on a second head (DHO, Kang et al. 2025, paper 17).

    ``share`` * CE(student) + (1 - ``share``) * T^2 * (KL_l + KL_u), KL(softmax(t / T) || softmax(h / T)) once as the mean
    over the samples with a label and once as that over those without, as the authors add them; h is a linear head on the
    student's embedding, so that the two gradients meet in the backbone only. The paper's
    mixture of both heads at inference is the stage distill's ``mixture = true``; without, the student's own head ships.
    Logits (samples, classes), targets (samples,), embeddings (samples, width).
    """

    def __init__(self, example: Example, *, share: float = 0.5, temperature: Temperature = 2.0) -> None:
        super().__init__()
        self._share, self._temperature = share, temperature
        self.head = nn.Linear(example["student_embedding"].shape[-1], example["student_logits"].shape[-1])

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, student_embedding: Tensor, targets: Tensor) -> Tensor:
        where, known = split_labels(student_logits, targets)
        hard = masked_mean(functional.cross_entropy(flatten_places(student_logits), where, reduction="none"), known)
        second = log_probabilities(self.head(as_float32(student_embedding)), self._temperature)
        apart = kl_divergence(log_probabilities(teacher_logits, self._temperature), second)
        soft = masked_mean(apart, known) + masked_mean(apart, ~known)
        return self._share * hard + (1 - self._share) * self._temperature**2 * soft


@final
class DeitLt(TwoHeaded):
    """Cross-entropy with labels, and with the teacher's decisions on a second head (DeiT-LT, Rangwani et al. 2024).

    (1 - ``share``) * CE(student, y) + ``share`` * CE_w(h, argmax t), h a linear head on the student's embedding (the
    paper's distillation token). From ``late`` of the training on, w_c is proportional to (1 - b) / (1 - b^n_c), mean 1,
    n_c the labels seen of class c (paper 57; b = ``rarity``). The released code's soft variant multiplies
    log-probabilities by the class weights; here a weight multiplies a sample's loss. Logits (samples, classes), targets
    (samples,), embeddings (samples, width).
    """

    counts: Tensor

    def __init__(self, example: Example, *, share: float = 0.5, late: float = 0.9, rarity: float = 0.9999) -> None:
        super().__init__()
        classes = example["student_logits"].shape[-1]
        self._share, self._late, self._rarity = share, late, rarity
        self.head = nn.Linear(example["student_embedding"].shape[-1], classes)
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_embedding: Tensor,
        targets: Tensor,
        progress: float,
    ) -> Tensor:
        where, known = split_labels(student_logits, targets)
        labels = of_all_processes(where)[of_all_processes(known)]
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        hard = masked_mean(functional.cross_entropy(flatten_places(student_logits), where, reduction="none"), known)
        decided = flatten_places(teacher_logits).argmax(dim=1)
        answers = flatten_places(self.head(as_float32(student_embedding)))
        second = functional.cross_entropy(answers, decided, reduction="none")
        if progress >= self._late:
            second = second * self.weights()[decided].to(second.dtype)
        return (1 - self._share) * hard + self._share * second.mean()

    def weights(self) -> Tensor:
        """Compute the class weights (classes,) from the labels seen of each class; their mean is 1."""
        weights = (1 - self._rarity) / (1 - self._rarity ** self.counts.clamp(min=1))
        return weights / weights.mean()


@final
class Aspects(nn.Module):
    """Cross-entropy of answers to yes-or-no questions on a separate head (MaKD, Lee et al. 2025, paper 31).

    Binary cross-entropy of a linear head on the student's embedding with the probabilities of "yes" that ``answers``
    holds: a .npy file of shape (training samples, questions), rows in the order of the training split, NaN where nothing
    was asked. Embeddings (samples, width).

    Raises:
        UserError: no such file, or of another shape.
    """

    answers: Tensor

    def __init__(self, example: Example, *, answers: str | Path = "") -> None:
        super().__init__()
        table = load_npy("aspects", "answers", answers)
        if len(table) != example["samples"] or table.dim() != 2:
            wanted = f"({example['samples']}, questions)"
            raise UserError(
                f"loss aspects: answers {answers} has the shape {tuple(table.shape)}; the split asks for {wanted}"
            )
        self.head = nn.Linear(example["student_embedding"].shape[-1], table.shape[1])
        self.register_buffer("answers", table, persistent=False)

    def forward(self, student_embedding: Tensor, indices: Tensor) -> Tensor:
        asked = self.answers[indices]
        known = ~asked.isnan()
        hard = self.head(as_float32(student_embedding).to(self.head.weight.dtype))
        apart = functional.binary_cross_entropy_with_logits(hard, asked.nan_to_num(), reduction="none")
        return masked_mean(apart, known)
