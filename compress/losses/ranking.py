"""Losses on the order of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.base import PerSampleLoss, Temperature, all_counted, flatten_places, log_probabilities, split_labels


@PerSampleLoss
def pld(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: Temperature = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the Plackett-Luce loss of the order (label, then the teacher's) (PLD, Bassam et al. 2025, paper 34).

    Mean over samples of sum over k of q_k * (logsumexp over l >= k of s_l - s_k), classes in that order, q the teacher's
    softmax(t / T). Blind to a constant per sample; takes the place of 'task', whose first term is its own. Without a label
    the order is the teacher's. Logits of shape (samples, ..., classes), targets (samples, ...).
    """
    where, known = split_labels(student_logits, targets)
    student, q = flatten_places(student_logits), log_probabilities(teacher_logits, temperature).exp()
    worth = flatten_places(teacher_logits).detach().clone()
    worth[known, where[known]] = float("inf")
    order = worth.argsort(dim=1, descending=True, stable=True)
    ordered, weight = student.gather(1, order), q.gather(1, order)
    behind = torch.logcumsumexp(ordered.flip(1), dim=1).flip(1)
    return all_counted((weight * (behind - ordered)).sum(dim=1))
