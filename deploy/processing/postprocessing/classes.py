"""Classification: the class, how sure, and the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deploy.processing.detection.arrays import softmax
from deploy.processing.postprocessing.base import Answer, Array, OfClasses, scores_of
from deploy.processing.preprocessing.base import Prepared

SHOWN = 5


@final
@dataclass(frozen=True, kw_only=True)
class Classes(OfClasses):
    """Softmax of logits (1, classes)."""

    gives = "label, score (from 0 to 1), top (up to five of both, best first)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        logits = scores_of(outputs, self.classes, axes=2, axis=1)
        shares = softmax(logits)
        best = np.argsort(-logits, kind="stable")[:SHOWN]
        top = [{"label": self.classes[number], "score": float(shares[number])} for number in best]
        return {**top[0], "top": top}
