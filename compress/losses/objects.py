"""Losses on what a detector's places say beside boxes: masks of prototypes, and keypoints."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.base import as_float32, cells_inside
from profiles.errors import UserError

TINY = 1e-6


def masks(
    student_coefficients: Tensor,
    student_prototypes: Tensor,
    teacher_coefficients: Tensor,
    teacher_prototypes: Tensor,
    teacher_boxes: Tensor,
    teacher_logits: Tensor,
    *,
    most: int = 20,
    stride: float = 4.0,
    sharpness: float = 2.0,
) -> Tensor:
    """Compute KL of masks, student against teacher, at the places of which the teacher is surest (YOLACT, 2019, section 3).

    A place's mask is the sigmoid of its coefficients times the prototypes (Bolya et al. 2019, equation 1), so both may have
    any number of those. Weighted mean over the ``most`` surest places of a sample of the mean, over the cells inside the
    teacher's box, of KL(Bernoulli(t) || Bernoulli(s)); the weight is the teacher's largest class probability to the power
    ``sharpness``. Zero when the masks agree. Coefficients (samples, places, prototypes), prototypes (samples, prototypes,
    rows, columns) of which a cell is ``stride`` pixels, boxes (samples, places, 4) in pixels, logits (samples, places,
    classes).
    """
    _check_places(student_coefficients, teacher_coefficients, "masks")
    sure, places = as_float32(teacher_logits).sigmoid().amax(dim=-1).topk(min(most, teacher_logits.shape[1]), dim=1)
    student = _assembled(student_coefficients, student_prototypes, places)
    teacher = _assembled(teacher_coefficients, teacher_prototypes, places)
    if student.shape != teacher.shape:
        student = functional.interpolate(student, tuple(teacher.shape[2:]), mode="bilinear", align_corners=False)
    boxes = as_float32(teacher_boxes).gather(1, places[..., None].expand(-1, -1, 4)) / stride
    within = cells_inside(boxes.flatten(0, 1), *teacher.shape[2:]).reshape(teacher.shape)
    target = teacher.sigmoid()
    apart = functional.binary_cross_entropy_with_logits(student, target, reduction="none")
    apart = (apart - functional.binary_cross_entropy_with_logits(teacher, target, reduction="none")) * within
    each = apart.sum(dim=(2, 3)) / within.sum(dim=(2, 3)).clamp(min=1)
    weight = sure**sharpness
    return (weight * each).sum() / weight.sum().clamp(min=TINY)


def keypoints(
    student_keypoints: Tensor,
    teacher_keypoints: Tensor,
    teacher_boxes: Tensor,
    teacher_logits: Tensor,
    *,
    spread: float = 0.1,
    sharpness: float = 2.0,
) -> Tensor:
    """Compute distances of keypoints, and KL of their scores, student against teacher (YOLO-Pose, Maji et al. 2022).

    The mean over points, weighted by the teacher's score of each, of sqrt(1 + 2 e) - 1 with e = d^2 / (2 a ``spread``^2) as
    in equation 3 of the paper, a the area of the teacher's box; and the mean over points of KL(Bernoulli(t) ||
    Bernoulli(s)). The paper's 1 - exp(-e) tells a student that is far off nothing. Both are weighted over places by the
    teacher's largest class probability to the power ``sharpness``. Zero when they agree. Keypoints (samples, places, points,
    3): x and y in pixels and a score from 0 to 1; boxes (samples, places, 4), logits (samples, places, classes).
    """
    _check_places(student_keypoints, teacher_keypoints, "keypoints")
    ours, theirs, boxes = (as_float32(each) for each in (student_keypoints, teacher_keypoints, teacher_boxes))
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1).prod(dim=-1)[..., None]
    off = (ours[..., :2] - theirs[..., :2]).square().sum(dim=-1)
    apart_by = (1 + off / (area * spread**2)).sqrt() - 1
    given, wanted = ours[..., 2].clamp(TINY, 1 - TINY), theirs[..., 2].clamp(TINY, 1 - TINY)
    apart = functional.binary_cross_entropy(given, wanted, reduction="none")
    apart = apart - functional.binary_cross_entropy(wanted, wanted, reduction="none")
    each = (wanted * apart_by).sum(dim=-1) / wanted.sum(dim=-1) + apart.mean(dim=-1)
    weight = as_float32(teacher_logits).sigmoid().amax(dim=-1) ** sharpness
    return (weight * each).sum() / weight.sum().clamp(min=TINY)


def _assembled(coefficients: Tensor, prototypes: Tensor, places: Tensor) -> Tensor:
    """Compute the logits of some places' masks, (samples, chosen, rows, columns)."""
    chosen = as_float32(coefficients).gather(1, places[..., None].expand(-1, -1, coefficients.shape[2]))
    return torch.einsum("spc,schw->sphw", chosen, as_float32(prototypes))


def _check_places(student: Tensor, teacher: Tensor, loss: str) -> None:
    if student.shape[:2] != teacher.shape[:2] or (loss == "keypoints" and student.shape != teacher.shape):
        raise UserError(
            f"loss {loss}: compares places one by one, and the student gives {tuple(student.shape)}, the teacher "
            f"{tuple(teacher.shape)}; leave it out"
        )
