"""Detection: decode.json's reader, suppression and thresholds; boxes in pixels of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from deploy.processing.detection import decode
from deploy.processing.detection.decode import Decoding
from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes(Postprocessing):
    """Detections above their class's threshold."""

    gives = "detections, best first: each class, score, box (x1, y1, x2, y2 in pixels of the picture)"
    decoding: Decoding

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Boxes:
        return cls(decoding=decode.load(folder))

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        found = self.decoding.detect(outputs)[0]
        corners = found[:, 2:].astype(float)
        if (window := prepared.window) is not None:
            corners = window.to_picture(corners.reshape(-1, 2, 2)).clip(0, window.picture).reshape(-1, 4)
        rows = zip(found[:, 0], found[:, 1], corners.tolist(), strict=True)
        names = self.decoding.classes
        return {
            "detections": [{"class": names[int(label)], "score": float(score), "box": box} for label, score, box in rows]
        }
