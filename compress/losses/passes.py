"""Losses on two stochastic passes of the student over the same samples."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.losses.base import Temperature, as_float32, kl_divergence


def two_passes(student_logits: Tensor, again_logits: Tensor, *, temperature: Temperature = 4.0) -> Tensor:
    """Compute KL both ways between two passes over one batch (LAD, 2024, paper 67; R-Drop, Liang et al. 2021).

    T^2 * mean of KL(a || b) + KL(b || a): for dense outputs over the places of each class, as ``cwd``, for others over the
    classes. Zero when the passes agree, so it is for models that draw: dropout, random depth, the teacher that reads labels.
    Reads no teacher. Logits of shape (samples, ..., classes).
    """
    one, two = (as_float32(z) / temperature for z in (student_logits, again_logits))
    if one.dim() > 2:
        one, two = (z.flatten(1, -2).transpose(1, 2) for z in (one, two))
    one, two = functional.log_softmax(one, dim=-1), functional.log_softmax(two, dim=-1)
    return temperature**2 * (kl_divergence(one, two) + kl_divergence(two, one)).mean()
