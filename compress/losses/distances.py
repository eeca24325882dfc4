"""Loss on two distances of class probabilities from the label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from compress.losses.base import TINY, log_probabilities


def dbr(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, euclidean: float = 1.0) -> Tensor:
    """Compute the squared differences of two distances from the one-hot label (NRR-DD's DBR, 2025, paper 8).

    Mean over labelled samples of (c_s - c_t)^2 + ``euclidean`` * (d_s - d_t)^2, where c is the cross-entropy and d the
    Euclidean distance of softmax(logits) from the one-hot label: a teacher that is stored as these two numbers a sample,
    whatever the number of classes, is all that it reads. Zero when both agree. The paper could be read in its abstract
    only: which two distances they are is this product's choice. Logits (samples, ..., classes), targets (samples, ...).
    """
    labels = targets.reshape(-1)
    known = labels >= 0
    ours, theirs = (_distances(log_probabilities(z)[known], labels[known]) for z in (student_logits, teacher_logits))
    apart = [(a - b).square().sum() for a, b in zip(ours, theirs, strict=True)]
    return (apart[0] + euclidean * apart[1]) / known.sum().clamp(min=1)


def _distances(logs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Euclidean distance of log-probabilities (places, classes) from labels; (places,) each."""
    one_hot = functional.one_hot(labels, logs.shape[1]).to(logs)
    square = (logs.exp() - one_hot).square().sum(dim=1)
    return -(logs * one_hot).sum(dim=1), (square + TINY).sqrt()
