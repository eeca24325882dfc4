"""Losses on some places only: confident teacher, better teacher, or right prediction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.base import (
    UNTAGGED,
    PerSampleLoss,
    Temperature,
    as_float32,
    cross_entropy,
    flatten_places,
    kl_divergence,
    log_probabilities,
    masked_mean,
    split_labels,
)


@PerSampleLoss
def fer(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    discard: float = 0.15,
    distrust: float = 0.4,
    smoothing: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Compute cross-entropy with soft labels of a sure teacher, else smoothed labels or none (FerKD, Shen 2023, paper 58).

    By the teacher's largest probability: below ``discard`` the crop shows no object and is left out; below ``distrust``
    the target is the label with ``smoothing``; above, the teacher's softmax. Cross-entropy, mean over what is kept. The
    paper's thresholds could not be verified. With ``realisations`` the teacher's labels of each crop are computed once
    and stored, as in FKD; crops without a label keep the teacher's. Logits of shape (samples, ..., classes), targets
    (samples, ...).
    """
    where, known = split_labels(student_logits, targets)
    student, soft = log_probabilities(student_logits), log_probabilities(teacher_logits).exp()
    sure = soft.amax(dim=1)
    hard = functional.one_hot(where, soft.shape[1]).to(soft.dtype) * (1 - smoothing) + smoothing / soft.shape[1]
    target = torch.where(((sure < distrust) & known)[:, None], hard, soft)
    return cross_entropy(target, student), sure >= discard


@PerSampleLoss
def pseudo_labels(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, confidence: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Compute cross-entropy with the decisions of a sure teacher where there is no label (UniversalNER, 2023, paper 47).

    Mean of -log s_c over the places without a label where the teacher's largest probability is at least ``confidence``, c
    its class; with ``task`` beside it the student learns from both. The paper's teacher is asked once for hard labels and
    all are kept; the threshold is that of FixMatch (Sohn et al. 2020, equation 4), here over what is kept. Of sequences,
    words of unknown tag count (``UNTAGGED``) and tokens that begin no word do not. Where targets are 0 or 1 for each class,
    each is decided on its own, from ``confidence`` and below 1 - ``confidence``; a sample is the mean of those decided.
    Logits (samples, ..., classes), targets (samples, ...) or as the logits.
    """
    student, teacher = as_float32(student_logits), as_float32(teacher_logits).detach()
    if targets.shape == student_logits.shape and targets.is_floating_point():
        sure = teacher.sigmoid()
        kept = (targets < 0) & (torch.maximum(sure, 1 - sure) >= confidence)
        apart = functional.binary_cross_entropy_with_logits(student, (sure >= 0.5).to(student.dtype), reduction="none")
        return torch.where(kept, apart, 0).sum(dim=1) / kept.sum(dim=1).clamp(min=1), kept.any(dim=1)
    _, known = split_labels(student_logits, targets)
    there = targets.reshape(-1) == UNTAGGED if student_logits.dim() == 3 else ~known
    best = flatten_places(teacher).softmax(dim=1).max(dim=1)
    return -log_probabilities(student)[torch.arange(len(known)), best.indices], there & (best.values >= confidence)


def mdcs(student_logits: Tensor, plain_logits: Tensor, targets: Tensor, *, temperature: Temperature = 1.0) -> Tensor:
    """Compute KL of augmented to plain predictions where the plain ones are right (MDCS, Zhao et al. 2023, paper 54).

    T^2 * mean of KL(plain || augmented) over the samples whose plain view is classified right; plain without gradient.
    Reads no teacher. The paper's weight is 0.6, ramped up over 20 of 400 epochs: ``{use = "scheduled", end = 0.6, ends =
    0.05}``. Of the paper's three experts this is the consistency of each. Logits of shape (samples, ..., classes).
    """
    where, known = split_labels(student_logits, targets)
    right = known & (flatten_places(plain_logits).argmax(dim=1) == where)
    target, given = log_probabilities(plain_logits, temperature).detach(), log_probabilities(student_logits, temperature)
    return temperature**2 * masked_mean(kl_divergence(target, given), right)


def open_set(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: Temperature = 4.0,
    strictness: float = 1.0,
) -> Tensor:
    """Compute KL on labelled samples and on unlabelled ones that both models find familiar (KD3, 2023, paper 68).

    T^2 * mean of KL(t || s) over the samples that have a label or whose confidence, the product of the largest
    probabilities of teacher and student, is at least ``strictness`` times its mean in the batch: unlabelled data from
    elsewhere shows things of no class, on which the teacher is unsure. The paper's rule could not be verified; it moves with
    training, as this does. Zero when the logits agree. Logits of shape (samples, ..., classes), targets (samples, ...).
    """
    _, known = split_labels(student_logits, targets)
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    sure = (
        torch.stack([flatten_places(z).softmax(dim=1).amax(dim=1) for z in (student_logits, teacher_logits)])
        .prod(dim=0)
        .detach()
    )
    familiar = sure >= strictness * sure.mean()
    return temperature**2 * masked_mean(kl_divergence(teacher, student), known | familiar)


def collaborative(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: Temperature = 1.0, regions: int = 4
) -> Tensor:
    """Compute KL where the teacher is better, by place and by region (BSD, Zhu et al. 2023, paper 18).

    T^2 * (mean of KL over the places where the teacher's cross-entropy is below the student's, plus, for dense outputs,
    the same over a grid of ``regions`` x ``regions`` with the means of KL and cross-entropy in each). The paper trains
    two networks and lets each teach where it is better; here the teacher is frozen, so one direction is left. Logits of
    shape (samples, classes) or (samples, height, width, classes), targets without the classes.
    """
    where, known = split_labels(student_logits, targets)
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    apart = kl_divergence(teacher, student)
    gain = torch.stack(
        [functional.nll_loss(log_probabilities(z), where, reduction="none") for z in (student_logits, teacher_logits)]
    ).detach()
    better = torch.where(known, gain[0] - gain[1], torch.zeros_like(gain[0]))
    loss = masked_mean(apart, better > 0)
    if student_logits.dim() == 4:
        shape = student_logits.shape[:-1]
        pooled = [functional.adaptive_avg_pool2d(x.reshape(shape)[:, None], regions) for x in (apart, better)]
        loss = loss + masked_mean(pooled[0], pooled[1] > 0)
    return temperature**2 * loss
