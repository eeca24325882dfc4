"""Adversarial losses: a discriminator learns to tell student from teacher."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.losses.base import Example, cross_entropy, log_probabilities


@final
class Meal(nn.Module):
    """Cross-entropy with the teachers' mean probabilities, optionally a discriminator (MEAL V2, Shen et al. 2020).

    Mean of -sum over classes of t log s, no labels: least, the teacher's entropy, at the teacher. With ``discriminator`` > 0
    that many times the binary cross-entropy of a small network that tells the softmax of the two apart is added; it learns
    to, and the student, through a reversed gradient, to be mistaken. Logits of shape (samples, ..., classes).
    """

    def __init__(self, example: Example, *, discriminator: float = 0.0, width: int = 64) -> None:
        super().__init__()
        self._weight = discriminator
        self.judge: nn.Module | None = None
        if discriminator > 0:
            classes = example["student_logits"].shape[-1]
            self.judge = nn.Sequential(nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        student, teacher = log_probabilities(student_logits), log_probabilities(teacher_logits).exp()
        loss = cross_entropy(teacher, student).mean()
        if self.judge is None:
            return loss
        student_scores = self.judge(_reversed(student.exp()))
        teacher_scores = self.judge(teacher)
        discrimination = functional.softplus(student_scores).mean() + functional.softplus(-teacher_scores).mean()
        return loss + self._weight * discrimination


def _reversed(values: Tensor) -> Tensor:
    result: Tensor = GradientReversal.apply(values)  # type: ignore[no-untyped-call]  # torch's own
    return result


class GradientReversal(torch.autograd.Function):
    """Identity in the forward pass, reversed gradient in the backward pass (Ganin and Lempitsky 2015, equation 9)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]
