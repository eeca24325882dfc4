"""Where a training stands: what a loss may know besides a batch's inputs and targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """One batch's place in a training.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        progress: share of all steps that are done, 0 to 1.
        indices: which samples of the training split these are, (samples,).
        plain: the same samples not augmented; only where a loss reads ``plain_logits``.
    """

    step: int = 0
    epoch: int = 0
    progress: float = 0.0
    indices: Tensor | None = None
    plain: Tensor | None = None
