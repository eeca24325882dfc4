"""Tagging: each class on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.processing.detection.arrays import sigmoid
from deploy.processing.postprocessing.base import Answer, Array, Postprocessing, class_names, scores_of
from deploy.processing.preprocessing.base import Prepared

THRESHOLD = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class Tags(Postprocessing):
    """Sigmoid of logits (1, classes)."""

    gives = "labels (of a score of 0.5 and more, best first), scores (from 0 to 1, by label)"
    classes: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Tags:
        return cls(classes=class_names(data))

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        values = sigmoid(scores_of(outputs, self.classes, axes=2, axis=1)).tolist()
        scores = dict(zip(self.classes, values, strict=True))
        labels = sorted((name for name in scores if scores[name] >= THRESHOLD), key=lambda name: -scores[name])
        return {"labels": labels, "scores": scores}
