"""From what pieces take alone to what they take in the whole: learnt from whole models. Host only.

    ms = offset + factor x sum over pieces of  scale x ms alone

Factor and offset are those of least squares of relative errors with every scale 1. Scales then are the likeliest, given
that a whole model is measured to within ``NOISE`` and a piece is off by about ``SPREAD`` of what it takes alone: where whole
models say nothing of a piece it keeps 1, and pieces that come and go together share what is left over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

NOISE = 0.04
"""Of a time: what repeats of one measurement differ by."""
SPREAD = 0.2
"""Of a piece's time: what the share that is the piece's own differs by from the common factor."""
LEAST, MOST = 0.5, 2.0
"""Scales beyond which a few whole models are not believed."""


@final
@dataclass(frozen=True)
class Correction:
    """What the milliseconds of pieces are corrected by; ``scales`` has one for each piece."""

    factor: float
    offset: float
    scales: Numbers

    def of(self, costs: Numbers) -> Numbers:
        """Milliseconds of whole models, (models), of their pieces' costs, (models, pieces)."""
        return np.asarray(self.offset + self.factor * (costs @ self.scales))


def corrected(costs: Numbers, taken: Numbers) -> Correction:
    """The correction of pieces whose ``costs``, (models, pieces), add up to less or more than was ``taken``, (models)."""
    factor, offset = _fit(costs.sum(1), taken)
    shares = factor * costs / taken[:, None]
    left = 1 - offset / taken - shares.sum(1)
    # the posterior mean in the space of models, of which there are fewer than pieces
    inner = shares @ shares.T + (NOISE / SPREAD) ** 2 * np.eye(len(taken))
    scales = 1 + shares.T @ np.linalg.solve(inner, left)
    return Correction(factor, offset, np.clip(scales, LEAST, MOST))


def left_out_errors(costs: Numbers, taken: Numbers) -> Numbers:
    """Relative errors of each whole model, with the correction learnt from the others."""
    errors = []
    for index in range(len(taken)):
        others = np.arange(len(taken)) != index
        found = corrected(costs[others], taken[others])
        errors.append(abs(found.of(costs[index : index + 1])[0] / taken[index] - 1))
    return np.array(errors)


def _fit(sums: Numbers, taken: Numbers) -> tuple[float, float]:
    """Factor and offset of least squares of relative errors, neither negative."""
    rows = np.stack([sums / taken, 1 / taken], axis=1)
    factor, offset = np.linalg.lstsq(rows, np.ones(len(taken)), rcond=None)[0]
    if offset < 0 or factor <= 0:
        ratio = sums / taken
        return float(ratio.sum() / (ratio**2).sum()), 0.0
    return float(factor), float(offset)
