"""Detection: decode.json's reader, suppression and thresholds; boxes in pixels of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.detection import decode
from deploy.processing.detection.decode import Decoding
from deploy.processing.detection.objects import Objects, run_lengths
from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.postprocessing.mask import to_picture
from deploy.processing.preprocessing.base import Prepared, Window


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes(Postprocessing):
    """Detections above their class's threshold."""

    gives = (
        "detections, best first: each class, score, box (x1, y1, x2, y2 in pixels of the picture); of heads that give them, "
        "keypoints (x, y, score each), or a mask (COCO's runs: size, counts)"
    )
    decoding: Decoding

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Boxes:
        return cls(decoding=decode.load(folder))

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        found = self.decoding.objects(outputs)[0]
        return {"detections": described(found, self.decoding.classes, prepared.window)}


def described(found: Objects, classes: Sequence[str], window: Window | None = None) -> list[Answer]:
    """Describe what was found in one sample as plain data, best first; moved to the picture where its ``window`` is given.

    Masks are moved one at a time: a hundred of a large picture would fill the memory of a board.
    """
    corners = found.rows[:, 2:].astype(float)
    if window is not None:
        corners = window.to_picture(corners.reshape(-1, 2, 2)).clip(0, window.picture).reshape(-1, 4)
    answers: list[Answer] = []
    for index, (label, score) in enumerate(found.rows[:, :2]):
        answers.append({"class": classes[int(label)], "score": float(score), "box": corners[index].tolist()})
        if found.keypoints is not None:
            places, scores = found.keypoints[index, :, :2].astype(float), found.keypoints[index, :, 2:].astype(float)
            places = places if window is None else window.to_picture(places)
            answers[-1]["keypoints"] = np.concatenate([places, scores], axis=1).tolist()
        if found.masks is not None:
            mask = found.masks[index] if window is None else to_picture(found.masks[index], window)
            answers[-1]["mask"] = {"size": list(mask.shape), "counts": run_lengths(mask)}
    return answers
