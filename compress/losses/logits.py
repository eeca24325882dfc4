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
