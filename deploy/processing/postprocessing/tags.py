"""Tagging: each class on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from deploy.processing.detection.arrays import sigmoid
from deploy.processing.postprocessing.base import Answer, Array, OfClasses, scores_of
from deploy.processing.preprocessing.base import Prepared

THRESHOLD = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class Tags(OfClasses):
    """Sigmoid of logits (1, classes)."""

    gives = "labels (of a score of 0.5 and more, best first), scores (from 0 to 1, by label)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        values = sigmoid(scores_of(outputs, self.classes, axes=2, axis=1)).tolist()
        scores = dict(zip(self.classes, values, strict=True))
        labels = sorted((name for name in scores if scores[name] >= THRESHOLD), key=lambda name: -scores[name])
        return {"labels": labels, "scores": scores}
