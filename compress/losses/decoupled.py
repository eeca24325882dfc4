"""Losses with separate weights for parts of the class distribution: the label's class, the others, the first few."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from compress.losses.base import PerSampleLoss, Temperature, flatten_places, kl_divergence, log_probabilities, split_labels

LEAST = -1e9
"""In place of a logit that is left out; finite, so that its gradient is 0 and not NaN."""


@PerSampleLoss
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: Temperature = 4.0,
    target: float = 1.0,
    others: float = 8.0,
) -> tuple[Tensor, Tensor]:
    """Compute KL of label against the rest and KL among the rest, weighed apart (DKD, Zhao et al. 2022, equation 7).

    T^2 * (``target`` * KL of (p_y, 1 - p_y) + ``others`` * KL of the softmax without y), over the samples with a label; zero
    when the logits agree up to a constant per sample. The paper ramps it up over its first 20 epochs of 240: give it the
    weight ``{use = "scheduled", ends = 0.08}``. Logits of shape (samples, ..., classes), targets (samples, ...).
    """
    where, known = split_labels(student_logits, targets)
    two = [_two(log_probabilities(z, temperature), where) for z in (student_logits, teacher_logits)]
    rest = [
        functional.log_softmax(_without(flatten_places(z) / temperature, where), dim=-1)
        for z in (student_logits, teacher_logits)
    ]
    apart = target * kl_divergence(two[1], two[0]) + others * kl_divergence(rest[1], rest[0])
    return temperature**2 * apart, known


@PerSampleLoss
def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: Temperature = 1.0,
    others: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute cross-entropy of the label by the teacher's confidence, and of the rest normalised (NKD, Yang et al. 2023).

    Mean over the samples with a label of -t_y log s_y - ``others`` * T^2 * sum over i != y of n(t)_i log n(s)_i, n the
    softmax without y. Its minimum over the rest is at the teacher. Logits of shape (samples, ..., classes), targets
    (samples, ...).
    """
    where, known = split_labels(student_logits, targets)
    sure = _at(log_probabilities(teacher_logits), where).exp()
    first = -sure * _at(log_probabilities(student_logits), where)
    student, teacher = (
        functional.log_softmax(_without(flatten_places(z) / temperature, where), dim=-1)
        for z in (student_logits, teacher_logits)
    )
    rest = -(teacher.exp() * student).sum(dim=-1)
    return first + others * temperature**2 * rest, known


def top_k_ld(
    student_logits: Tensor, teacher_logits: Tensor, *, k: Annotated[int, Ge(1)] = 5, temperature: Temperature = 1.0
) -> Tensor:
    """Compute forward KL on the teacher's first ``k`` classes, reverse KL on the rest (TopKLD, 2025, paper 49).

    T^2 * mean of sum over the first k of t log(t / s) - t + s, plus sum over the rest of s log(s / t) - s + t: the terms
    of a KL with the masses, so that none is negative and the sum is zero only at the teacher. The paper's k and
    directions could not be verified. Logits of shape (samples, ..., classes); with fewer than ``k`` classes all are among
    the first.
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    first = torch.zeros_like(teacher, dtype=torch.bool)
    first.scatter_(1, teacher.topk(min(k, teacher.shape[1]), dim=1).indices, True)
    s, t = student.exp(), teacher.exp()
    forward, reverse = t * (teacher - student) - t + s, s * (student - teacher) - s + t
    return temperature**2 * torch.where(first, forward, reverse).sum(dim=-1).mean()


def _at(values: Tensor, where: Tensor) -> Tensor:
    return values.gather(1, where[:, None])[:, 0]


def _two(logs: Tensor, where: Tensor) -> Tensor:
    """Log-probabilities of the label's class and of all others together, (places, 2)."""
    mine = _at(logs, where)
    return torch.stack([mine, torch.logsumexp(_without(logs, where), dim=1)], dim=1)


def _without(values: Tensor, where: Tensor) -> Tensor:
    """``values`` with the label's class put out of reach."""
    return values.scatter(1, where[:, None], LEAST)
