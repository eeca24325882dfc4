"""Distance between two sets of outputs."""

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
        top1_agreement: fraction of places whose largest element over the classes is the same; classes are the last
            axis, and the second of maps (samples, classes, height, width).
        samples: how many samples were compared.
    """

    max_abs: float
    cosine: float
    top1_agreement: float
    samples: int


def first_step_apart(reference: npt.NDArray[Any], other: npt.NDArray[Any], least_cosine: float) -> str | None:
    """Say at which step of sequences (samples, steps, ...) outputs are first further apart; None where they never are.

    Example:
        >>> one = np.ones((1, 3, 2))
        >>> other = one * np.array([[[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]])
        >>> first_step_apart(one, other, 0.99)
        'step 2 of 3 is the first whose outputs differ: cosine 0.0000, and 0.99 is wanted'
    """
    for step in range(reference.shape[1]):
        cosine = parity(reference[:, step], other[:, step]).cosine
        if cosine < least_cosine:
            words = f"step {step} of {reference.shape[1]} is the first whose outputs differ"
            return f"{words}: cosine {cosine:.4f}, and {least_cosine:g} is wanted"
    return None


def parity(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> Parity:
    """Compare two outputs of shape (samples, ..., classes) or (samples, classes, height, width).

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"outputs of shape {reference.shape} and {other.shape} cannot be compared")
    a, b = reference.astype(np.float64), other.astype(np.float64)
    norm, largest = float(np.linalg.norm(a) * np.linalg.norm(b)), float(np.abs(a - b).max())
    axis = 1 if a.ndim == 4 else -1
    same = a.argmax(axis) == b.argmax(axis)
    return Parity(
        max_abs=largest,
        cosine=_cosine(a, b, norm, largest),
        top1_agreement=float(same.mean()),
        samples=len(a),
    )


def _cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], norm: float, largest: float) -> float:
    """Return the cosine; of outputs that are zero or not numbers 1 where they are equal, else 0: no proof of anything."""
    if np.isfinite(norm) and norm > 0:
        return float(np.sum(a * b) / norm)
    return 1.0 if largest == 0 else 0.0
