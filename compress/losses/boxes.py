"""Losses on boxes, as corners x1, y1, x2, y2: place by place, or of sets whose members are matched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.base import Temperature, as_float32
from profiles.errors import UserError

TINY = 1e-7


def boxes(student_boxes: Tensor, teacher_boxes: Tensor, teacher_logits: Tensor, *, sharpness: float = 2.0) -> Tensor:
    """Compute the mean of 1 - GIoU of student and teacher over places, weighted by the teacher's confidence in each.

    The weight is the teacher's largest class probability (sigmoid) to the power ``sharpness``: where it sees nothing
    its boxes mean nothing. Boxes of shape (samples, places, 4), logits of (samples, places, classes).
    """
    _check_places(student_boxes, teacher_boxes, "boxes")
    weight = as_float32(teacher_logits).sigmoid().amax(dim=-1) ** sharpness
    apart = 1 - giou(as_float32(student_boxes), as_float32(teacher_boxes))
    return (weight * apart).sum() / weight.sum().clamp(min=TINY)


def sides(
    student_distributions: Tensor,
    teacher_distributions: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Temperature = 10.0,
    sharpness: float = 2.0,
) -> Tensor:
    """Compute KL of the distributions of a box's sides, student against teacher (LD, Zheng et al. 2022).

    T^2 * mean over the four sides of KL(softmax(t / T) || softmax(s / T)), weighted over places by the teacher's largest
    class probability (sigmoid) to the power ``sharpness``: how sure the teacher is of an edge, which its box does not
    say. Zero when the distributions agree. For heads with distributions of distances (DFL): YOLO v8 to v12, GFL.

    Distributions of shape (samples, places, 4, bins), logits of (samples, places, classes).
    """
    _check_places(student_distributions, teacher_distributions, "sides")
    weight = as_float32(teacher_logits).sigmoid().amax(dim=-1) ** sharpness
    target = (as_float32(teacher_distributions) / temperature).log_softmax(dim=-1)
    given = (as_float32(student_distributions) / temperature).log_softmax(dim=-1)
    apart = (target.exp() * (target - given)).sum(dim=-1).mean(dim=-1)
    return temperature**2 * (weight * apart).sum() / weight.sum().clamp(min=TINY)


def matched_queries(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    *,
    box_weight: float = 2.0,
    sharpness: float = 1.0,
    rest: float = 0.1,
) -> Tensor:
    """Compute KL of scores and ``box_weight`` times 1 - GIoU over matched queries (DETRDistill, Chang et al. 2023).

    The teacher's surest query takes the student's that is nearest in scores and box, then the next of those that are
    left: one to one, so that it does not matter in which order a model answers, or how many queries it has; the paper
    matches by Hungarian assignment. A pair weighs ``rest`` and more, up to 1, by the teacher's largest probability to
    the power ``sharpness``. Queries of the student beyond the teacher's number are to say nothing. Zero when the sets
    are the same.

    Logits of shape (samples, queries, classes), the sigmoid of which is a score; boxes (samples, queries, 4).
    """
    logits, targets = as_float32(student_logits), as_float32(teacher_logits)
    boxes, wanted = as_float32(student_boxes), as_float32(teacher_boxes)
    pairs = match_queries(logits, targets, boxes, wanted)
    rows = torch.arange(len(pairs), device=pairs.device)[:, None]
    asked = pairs >= 0
    at = pairs.clamp(min=0)
    target = targets.sigmoid()
    sure = target.amax(dim=-1) ** sharpness
    weight = (rest + (1 - rest) * sure) * asked
    apart = functional.binary_cross_entropy_with_logits(logits[rows, at], target, reduction="none")
    least = functional.binary_cross_entropy_with_logits(targets, target, reduction="none")
    value = (weight * (apart - least).sum(dim=-1)).sum()
    value = value + box_weight * (sure * asked * (1 - giou(boxes[rows, at], wanted))).sum()
    idle = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    idle[rows.expand_as(pairs)[asked], pairs[asked]] = False
    silence = functional.softplus(logits).sum(dim=-1)[idle].sum()
    return (value + rest * silence) / weight.sum()


@torch.no_grad()
def match_queries(logits: Tensor, targets: Tensor, boxes: Tensor, wanted: Tensor) -> Tensor:
    """Match each query of the teacher, the surest first, to the nearest free one of the student; -1 where none is left.

    The distance is the sum over classes of the difference of scores, and 1 - GIoU.

    Args:
        logits, boxes: the student's, (samples, queries, ...).
        targets, wanted: the teacher's.

    Returns:
        Indices of the student's queries, (samples, the teacher's queries).
    """
    scores, sure = logits.sigmoid(), targets.sigmoid()
    order = sure.amax(dim=-1).argsort(dim=1, descending=True, stable=True)
    free = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    pairs = torch.full(targets.shape[:2], -1, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    for turn in range(min(logits.shape[1], targets.shape[1])):
        asking = order[:, turn]
        apart = (scores - sure[rows, asking][:, None]).abs().sum(dim=-1)
        apart = apart + 1 - giou(boxes, wanted[rows, asking][:, None])
        # what is no number is as far as can be: a broken answer must not keep the others from theirs
        apart = apart.nan_to_num(nan=torch.inf).masked_fill(~free, torch.inf)
        nearest = apart.argmin(dim=1)
        taken = free[rows, nearest]
        pairs[rows[taken], asking[taken]] = nearest[taken]
        free[rows, nearest] = False
    return pairs


def _check_places(student: Tensor, teacher: Tensor, loss: str) -> None:
    if student.shape[1:] != teacher.shape[1:]:
        raise UserError(
            f"loss {loss}: compares places one by one, and the student gives {tuple(student.shape)}, the teacher "
            f"{tuple(teacher.shape)}; take the loss 'matched_queries'"
        )


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
