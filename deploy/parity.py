"""How far two sets of outputs are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Distance of an engine's outputs from the module's, over the same samples.

    Attributes:
        max_abs: largest absolute difference of any element.
        cosine: cosine of the two outputs, each flattened over all samples.
        top1_agreement: fraction of samples whose largest element (last axis) is the same.
        samples: how many samples were compared.
    """

    max_abs: float
    cosine: float
    top1_agreement: float
    samples: int


def parity(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> Parity:
    """Compare two outputs of shape (samples, ..., classes).

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"outputs of shape {reference.shape} and {other.shape} cannot be compared")
    a, b = reference.astype(np.float64), other.astype(np.float64)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    same = a.reshape(len(a), -1, a.shape[-1]).argmax(-1) == b.reshape(len(b), -1, b.shape[-1]).argmax(-1)
    return Parity(
        max_abs=float(np.abs(a - b).max()),
        cosine=float(np.sum(a * b) / norm) if norm > 0 else 1.0,
        top1_agreement=float(same.mean()),
        samples=len(a),
    )
