"""Losses on class scores."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """KL divergence of softened class probabilities, times temperature squared (Hinton et al. 2015, section 2).

    T^2 * mean over samples of KL(softmax(t / T) || softmax(s / T)); zero when the logits agree up to a
    constant per sample. Logits of shape (samples, ..., classes).
    """
    classes = student_logits.shape[-1]
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1).reshape(-1, classes)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=-1).reshape(-1, classes)
    return temperature**2 * functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def bce_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, rest: float = 0.1) -> Tensor:
    """KL divergence of independent class probabilities (sigmoid), for scores that do not sum to one: detection.

    T^2 * weighted mean over places of the sum over classes of KL(Bernoulli(t / T) || Bernoulli(s / T)); a place weighs
    as much as the teacher's largest probability there, and ``rest`` where that is 0, so that the many places without
    an object do not drown the few with one. Zero when the logits agree. Logits of shape (samples, ..., classes).
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    sure = teacher_logits.float().sigmoid().amax(dim=-1)
    weight = rest + (1 - rest) * sure
    target = teacher.sigmoid()
    apart = functional.binary_cross_entropy_with_logits(student, target, reduction="none")
    least = functional.binary_cross_entropy_with_logits(teacher, target, reduction="none")
    return temperature**2 * (weight * (apart - least).sum(dim=-1)).sum() / weight.sum()
