"""COCO's average precision on samples drawn anew, from one matching: what is found in an image depends on no other image.

Detections of all images are ranked once; in a draw each counts as often as its image was drawn. On every image once the
value is COCO's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.tasks.draws import Weights, values_of_draws

RECALLS = np.linspace(0.0, 1.0, 101)
PASSES = 8
"""Times that a value reads each detection."""


@final
@dataclass(frozen=True, kw_only=True)
class Matched:
    """Detections of a class against its objects at one threshold, surest first.

    Attributes:
        images: of each detection. right, wrong: whether it counts as found, or as false; neither where it is ignored.
        objects: that count, in each image.
    """

    images: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int64]

    def precision(self, weights: Weights) -> float | None:
        """Compute the average precision, 0 to 1, of images so often each; None where they hold no object."""
        objects = float(weights @ self.objects)
        if objects == 0:
            return None
        often = weights[self.images]
        right, wrong = np.cumsum(often * self.right), np.cumsum(often * self.wrong)
        precision = right / np.maximum(right + wrong, 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # behind the last nothing is found
        return float(best[np.searchsorted(right / objects, RECALLS, side="left")].mean())


def matched(judge: Any, images: int) -> list[Matched]:
    """Read what an evaluation of pycocotools matched: of each class and threshold.

    Args:
        judge: evaluated, over one range of areas; images are counted from 0.
    """
    classes, thresholds = len(judge.params.catIds), len(judge.params.iouThrs)
    found: list[Matched] = []
    for label in range(classes):
        each = [one for one in judge.evalImgs[label * images : (label + 1) * images] if one is not None]
        if not each:
            continue
        objects = np.zeros(images, np.int64)
        for one in each:
            objects[one["image_id"]] = int((np.asarray(one["gtIgnore"]) == 0).sum())
        scores = np.concatenate([one["dtScores"] for one in each])
        order = np.argsort(-scores, kind="stable")
        place = np.concatenate([np.full(len(one["dtScores"]), one["image_id"], np.int64) for one in each])[order]
        hit, ignored = (
            np.concatenate([np.asarray(one[name]).reshape(thresholds, -1) for one in each], axis=1)[:, order].astype(bool)
            for name in ("dtMatches", "dtIgnore")
        )
        found += [
            Matched(images=place, right=hit[t] & ~ignored[t], wrong=~hit[t] & ~ignored[t], objects=objects)
            for t in range(thresholds)
        ]
    return found


def precision_of_draws(parts: Sequence[Matched], images: int) -> tuple[float, ...]:
    """Compute the mean average precision in per cent of images drawn anew, over classes that a draw holds."""

    def value(weights: Weights) -> float:
        values = [found for part in parts if (found := part.precision(weights)) is not None]
        return 100 * float(np.mean(values)) if values else 0.0

    return values_of_draws(value, images, PASSES * sum(len(part.images) for part in parts))
