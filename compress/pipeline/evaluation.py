"""What evaluating an engine on a split finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from compress.tasks import Metric
from deploy.measure.parity import Parity


@final
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metric and parity of a variant on one split, on its engine.

    Attributes:
        parted: the first tensor that differs from the float model; None where none does.
        scores: of each sample, whose mean is the metric as a share of its scale; None where it is no such mean.
        drawn: values of such a metric on draws of the samples, the same draws for all models (``compress.tasks.draws``).
    """

    metric: Metric
    parity: Parity
    parted: str | None = None
    scores: npt.NDArray[np.float32] | None = None
    drawn: npt.NDArray[np.float64] | None = None
