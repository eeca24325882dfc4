"""Losses on whole distributions of class scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.base import TINY, PerSampleLoss, Temperature, all_counted, as_float32, kl_divergence, log_probabilities


@PerSampleLoss
def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 4.0) -> tuple[Tensor, Tensor]:
    """Compute KL of softened class probabilities times temperature squared (Hinton et al. 2015, section 2).

    T^2 * mean over samples of KL(softmax(t / T) || softmax(s / T)); zero when the logits agree up to a
    constant per sample. Logits of shape (samples, ..., classes).
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    return all_counted(temperature**2 * kl_divergence(teacher, student))


def bce_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 1.0, rest: float = 0.1) -> Tensor:
    """Compute KL of independent class probabilities (sigmoid), for scores that do not sum to one: detection.

    T^2 * weighted mean over places of the sum over classes of KL(Bernoulli(t / T) || Bernoulli(s / T)); a place weighs
    as much as the teacher's largest probability there, and ``rest`` where that is 0, so that the many places without
    an object do not drown the few with one. Zero when the logits agree. Logits of shape (samples, ..., classes).
    """
    student, teacher = as_float32(student_logits) / temperature, as_float32(teacher_logits) / temperature
    sure = as_float32(teacher_logits).sigmoid().amax(dim=-1)
    weight = rest + (1 - rest) * sure
    target = teacher.sigmoid()
    apart = functional.binary_cross_entropy_with_logits(student, target, reduction="none")
    least = functional.binary_cross_entropy_with_logits(teacher, target, reduction="none")
    return temperature**2 * (weight * (apart - least).sum(dim=-1)).sum() / weight.sum()


@PerSampleLoss
def js(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 1.0) -> tuple[Tensor, Tensor]:
    """Compute the Jensen-Shannon divergence of class probabilities (SSLD, Cui et al. 2021, paper 45).

    T^2 * mean of (KL(t || m) + KL(s || m)) / 2 with m the mean of both; at most T^2 ln 2. Logits (samples, ..., classes).
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    middle = torch.logaddexp(student, teacher) - math.log(2)
    return all_counted(temperature**2 * 0.5 * (kl_divergence(teacher, middle) + kl_divergence(student, middle)))


@PerSampleLoss
def bd_kd(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 4.0, extra: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute KL both ways, weighed by sample for the less sure of the two (BD-KD, Amara et al. 2022, paper 76).

    T^2 * mean of a KL(t || s) + b KL(s || t); a is 1 + ``extra`` and b 1 where the student's entropy is below the
    teacher's (it is too sure: spread it), the other way round where it is not. The paper's rule for the gate could not be
    verified; this is its description. Logits of shape (samples, ..., classes).
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    too_sure = (_entropy(student) < _entropy(teacher)).detach()
    forward, reverse = kl_divergence(teacher, student), kl_divergence(student, teacher)
    return all_counted(temperature**2 * (forward + reverse + extra * torch.where(too_sure, forward, reverse)))


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Temperature = 4.0,
    between: float = 2.0,
    within: float = 2.0,
) -> Tensor:
    """Compute 1 - correlation of class probabilities within samples and within classes (DIST, Huang et al. 2022).

    T^2 * (``between`` * mean over samples of 1 - corr over classes + ``within`` * mean over classes of 1 - corr over
    samples): blind to scale and shift of the probabilities, not of the logits. Logits of shape (samples, ..., classes).
    """
    student, teacher = (log_probabilities(z, temperature).exp() for z in (student_logits, teacher_logits))
    inter = 1 - _correlation(student, teacher).mean()
    intra = 1 - _correlation(student.T, teacher.T).mean()
    return temperature**2 * (between * inter + within * intra)


def _entropy(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum(dim=-1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation over the last dimension."""
    a, b = (x - x.mean(dim=-1, keepdim=True) for x in (a, b))
    return functional.cosine_similarity(a, b, dim=-1, eps=TINY)
