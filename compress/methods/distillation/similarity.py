"""Similarity of features and labels, by which a teacher is ranked before training (paper 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def parc(features: Array, labels: Array) -> float:
    """Compute PARC, Spearman's correlation of sample distances by features and by labels (Bolya et al. 2021), -1 to 1.

    A distance is 1 - Pearson's correlation of two rows; of labels, of their one-hots. Features (samples, width), labels
    (samples,).
    """
    above = np.triu_indices(len(labels), 1)
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    fit, truth = (_ranks((1 - _correlation(rows))[above]) for rows in (features.astype(np.float64), one_hot))
    return float(_correlation(np.stack([fit, truth]))[0, 1])


def cka(features: Array, labels: Array) -> float:
    """Compute linear centred kernel alignment of features and one-hot labels (Kornblith et al. 2019), 0 to 1.

    |Y^T X|^2 / (|X^T X| |Y^T Y|) with columns of mean 0, Frobenius norms: blind to rotation and scale.
    """
    x = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    y = np.eye(int(labels.max()) + 1)[labels]
    y = y - y.mean(axis=0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else 0.0


def ensemble_shares(similarities: Sequence[float], power: float = 1.0) -> list[float]:
    """Compute ensemble shares, max(0, similarity)^power over their sum (DistillWeighted); equal where none is above 0."""
    positive = [max(0.0, value) ** power if value > 0 else 0.0 for value in similarities]
    total = sum(positive)
    return [value / total for value in positive] if total > 0 else [1 / len(positive)] * len(positive)


def _correlation(rows: Array) -> Array:
    """Pearson's correlation of each two rows; 0 with a row that does not vary."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-12)
    correlation: Array = np.round(unit @ unit.T, 12)  # equal rows are equally far apart: ranks see the last bit
    return correlation


def _ranks(values: Array) -> Array:
    """Ranks from 0; ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
