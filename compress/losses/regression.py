"""Losses on the values of outputs, class scores or not: pixels, depths, coordinates."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from compress.losses.base import as_float32


def l1(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean absolute difference of the outputs, in their unit; any shape, the same for both."""
    return functional.l1_loss(as_float32(student_logits), as_float32(teacher_logits))


def l2(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean squared difference of the outputs; any shape, the same for both."""
    return functional.mse_loss(as_float32(student_logits), as_float32(teacher_logits))


def huber(student_logits: Tensor, teacher_logits: Tensor, *, delta: Annotated[float, Gt(0)] = 1.0) -> Tensor:
    """Compute Huber's loss (1964) of the outputs: d^2 / 2 up to ``delta``, delta (|d| - delta / 2) beyond; the mean."""
    return functional.huber_loss(as_float32(student_logits), as_float32(teacher_logits), delta=delta)


def pooled_logits(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean difference of class scores averaged over an image (MGD's image level, Qin et al. 2022, paper 37).

    Mean over samples and classes of |mean over places of s - mean over places of t|: how much of each class there is, not
    where. Maps may be of different sizes. The paper's weight is 0.001. Logits (samples, ..., classes).
    """
    ours, theirs = (
        as_float32(z).flatten(1, -2).mean(dim=1) if z.dim() > 2 else as_float32(z) for z in (student_logits, teacher_logits)
    )
    return (ours - theirs).abs().mean()
