"""What evaluating an engine on a split finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.execution.cache import Step
from compress.tasks import Metric
from deploy.measure.parity import Parity

SCORES, DRAWN = "scores.npy", "drawn.npy"


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

    def keep(self, folder: Path) -> dict[str, Any]:
        """Write the arrays into the folder of a step, and return the rest as its facts."""
        if self.scores is not None:
            np.save(folder / SCORES, self.scores.astype(np.float32))
        if self.drawn is not None:
            np.save(folder / DRAWN, self.drawn)
        return {"metric": asdict(replace(self.metric, drawn=())), "parity": asdict(self.parity), "parted": self.parted}

    @classmethod
    def kept(cls, step: Step) -> Evaluation:
        """Read what ``keep`` wrote."""
        files = step.folder / SCORES, step.folder / DRAWN
        scores, drawn = (np.load(file, allow_pickle=False) if file.is_file() else None for file in files)
        metric = Metric(**{**step.facts["metric"], "drawn": ()})  # as JSON it is a list
        parity = Parity(**step.facts["parity"])
        return cls(metric=metric, parity=parity, parted=step.facts["parted"], scores=scores, drawn=drawn)
