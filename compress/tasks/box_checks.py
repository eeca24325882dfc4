"""Whether data is fit for detection: shapes, labels, boxes inside their inputs."""

from __future__ import annotations

import numpy as np

from compress.data import Samples, Splits
from compress.tasks.base import readable_batches, split_faults
from compress.tasks.precision import CHUNK
from deploy.engines.inputs import not_finite
from deploy.processing.detection.rows import ObjectKind, kind_of, points_of
from profiles.errors import UserError

WANTED = {
    "boxes": "boxes of shape (samples, most, 5), [label, x1, y1, x2, y2]",
    "masks": "masks behind each box, (samples, most, 5 + 3 vertices); the source coco gives them with objects = 'masks'",
    "keypoints": "keypoints and an area behind each box, (samples, most, 6 + 3 points); the source coco gives them with "
    "objects = 'keypoints'",
}


def check_boxes(splits: Splits, objects: ObjectKind = "boxes") -> None:
    """Check every split's boxes, [label, x1, y1, x2, y2] in pixels of the input, and what ``objects`` have behind them.

    Raises:
        UserError: everything that is wrong, at once.
    """
    if faults := split_faults(splits, lambda name, samples: _faults_of(name, samples, len(splits.classes), objects)):
        raise UserError(*faults)


def _faults_of(name: str, samples: Samples, classes: int, objects: ObjectKind) -> list[str]:
    unreadable: list[str] = []
    seen: set[int] = set()
    outside = labelled = 0
    for batch in readable_batches(samples, CHUNK, unreadable):
        if batch.targets.ndim != 3 or kind_of(batch.targets.shape[2]) != objects:
            words = f"detection reads {WANTED[objects]}"
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; {words}"]
        if not_finite(batch.inputs) or not np.isfinite(batch.targets).all():
            return [f"data: the {name} split holds NaN or infinity"]
        real = batch.targets[batch.targets[..., 0] >= 0]
        seen |= {int(label) for label in np.unique(real[:, 0])}
        height, width = batch.inputs.shape[-2:]
        outside += int(((real[:, 1:3] < -1).any(1) | (real[:, 3] > width + 1) | (real[:, 4] > height + 1)).sum())
        labelled += int((points_of(real)[..., 2] > 0).any(axis=1).sum()) if objects == "keypoints" else len(real)
    if unreadable:
        return unreadable
    faults: list[str] = []
    if seen and not labelled and name in ("validation", "test"):
        faults.append(f"data: the {name} split has no labelled keypoint; models are judged on it")
    if outside:
        faults.append(f"data: the {name} split has {outside} boxes outside their inputs; they are pixels of the input")
    if name in ("validation", "test") and not seen:
        faults.append(f"data: the {name} split has no box; models are judged on it")
    wrong = sorted(label for label in seen if label >= classes)
    if wrong:
        faults.append(f"data: the {name} split has labels {wrong[:5]}; allowed: 0 to {classes - 1}, -1 for none")
    return faults
