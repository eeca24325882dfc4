"""Losses on boxes, as corners x1, y1, x2, y2."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.losses.base import as_float32

TINY = 1e-7


def boxes(student_boxes: Tensor, teacher_boxes: Tensor, teacher_logits: Tensor, *, sharpness: float = 2.0) -> Tensor:
    """Compute the mean of 1 - GIoU of student and teacher over places, weighted by the teacher's confidence in each.

    The weight is the teacher's largest class probability (sigmoid) to the power ``sharpness``: where it sees nothing
    its boxes mean nothing. Boxes of shape (samples, places, 4), logits of (samples, places, classes).
    """
    weight = as_float32(teacher_logits).sigmoid().amax(dim=-1) ** sharpness
    apart = 1 - giou(as_float32(student_boxes), as_float32(teacher_boxes))
    return (weight * apart).sum() / weight.sum().clamp(min=TINY)


def intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute intersection and union of boxes (..., 4), which broadcast; both of shape (...), in square pixels."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    return shared, (areas[0] + areas[1] - shared).clamp(min=TINY)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised intersection over union, from -1 to 1 (Rezatofighi et al. 2019, algorithm 1).

    Where boxes are apart it still says how far: IoU less the share of the smallest box around both that is in neither.
    """
    shared, union = intersection_and_union(a, b)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = (around[..., 0] * around[..., 1]).clamp(min=TINY)
    return shared / union - (hull - union) / hull
