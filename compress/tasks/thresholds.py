"""Score thresholds chosen again after quantisation: those that keep the float model's precision.

int8 squashes scores: what was shown from 0.25 on is shown no more, or more of what is wrong is. The averages of
precision do not see that, for they go over all thresholds; whoever uses the model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.processing.detection.suppression import Detections

LEAST_OBJECTS = 20
"""Objects of a class, and detections of the float model, below which its threshold is chosen over all classes."""
OVERLAP = 0.5
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Detections of some classes on labelled samples, surest first, and how many objects there were.

    Attributes:
        scores, right: of each detection; of two on one object the surer is right.
    """

    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    objects: int

    def at(self, threshold: float) -> tuple[float, float, int]:
        """Return precision, recall and the number of detections from ``threshold`` up; precision of none is 1."""
        shown = self.scores >= threshold
        found, total = int(self.right[shown].sum()), int(shown.sum())
        return found / total if total else 1.0, found / max(self.objects, 1), total


@dataclass(frozen=True, kw_only=True)
class ClassThreshold:
    """The threshold of a class, and what it is worth on validation; precision and recall from 0 to 1.

    Attributes:
        asked: the threshold of the float model.
        pooled: whether it was chosen over all classes, for there were too few objects of this one.
        float_precision, float_recall: of the float model at the threshold that was asked for.
        old_precision, old_recall: of the quantised one at the same.
    """

    name: str
    asked: float
    threshold: float
    pooled: bool
    float_precision: float
    float_recall: float
    old_precision: float
    old_recall: float
    precision: float
    recall: float


def choose_thresholds(
    truth: Sequence[npt.NDArray[Any]],
    reference: Sequence[Detections],
    shipped: Sequence[Detections],
    names: Sequence[str],
    threshold: float,
) -> tuple[ClassThreshold, ...]:
    """Choose for each class the threshold at which ``shipped`` is as precise as ``reference`` is at ``threshold``.

    ``threshold`` itself where precision and recall are no less there. Else the one with the fewest detections that finds
    as many objects as the reference did; where none does, the one that finds most; where none is as precise, the most
    precise one.

    Args:
        truth: of each sample (objects, 5), [label, x1, y1, x2, y2], label -1 for none.
        reference, shipped: detections of the same samples, with low scores too.
    """
    before, after = _judged(truth, reference, len(names)), _judged(truth, shipped, len(names))
    common = _threshold(_pool(before), _pool(after), threshold)
    made = []
    for name, one, other in zip(names, before, after, strict=True):
        few = one.objects < LEAST_OBJECTS or one.at(threshold)[2] < LEAST_OBJECTS
        chosen = common if few else _threshold(one, other, threshold)
        made.append(_told(name, one, other, threshold, chosen, pooled=few))
    return tuple(made)


def describe(chosen: Sequence[ClassThreshold], samples: int) -> str:
    """Word the choice in one line, for a report."""
    words = []
    for each in chosen:
        precision = f"precision {each.precision:.1%}, float {each.float_precision:.1%}"
        recall = f"recall {each.old_recall:.1%} -> {each.recall:.1%}, float {each.float_recall:.1%}"
        pooled = ", over all classes" if each.pooled else ""
        words.append(f"{each.name} {each.asked:g} -> {each.threshold:.3g} ({precision}; {recall}{pooled})")
    return f"score thresholds after int8, chosen on {samples} samples of validation: {'; '.join(words)}"


def _told(name: str, one: Judged, other: Judged, old: float, new: float, *, pooled: bool) -> ClassThreshold:
    (before, found, _), (then, seen, _), (now, sees, _) = one.at(old), other.at(old), other.at(new)
    return ClassThreshold(
        name=name,
        asked=old,
        threshold=new,
        pooled=pooled,
        float_precision=before,
        float_recall=found,
        old_precision=then,
        old_recall=seen,
        precision=now,
        recall=sees,
    )


def _threshold(reference: Judged, shipped: Judged, threshold: float) -> float:
    if not len(shipped.scores):
        return threshold
    precision, recall, _ = reference.at(threshold)
    same = shipped.at(threshold)
    if same[0] >= precision - ROUNDING and same[1] >= recall - ROUNDING:
        return threshold
    lasts = np.flatnonzero(np.append(shipped.scores[1:] < shipped.scores[:-1], True))  # of equal scores all are shown
    found = np.cumsum(shipped.right)[lasts]
    precisions, recalls = found / (lasts + 1), found / max(shipped.objects, 1)
    exact = np.flatnonzero(precisions >= precision - ROUNDING)
    enough = exact[recalls[exact] >= recall - ROUNDING]
    if len(enough):
        place = lasts[enough[0]]
    elif len(exact):
        place = lasts[exact[recalls[exact].argmax()]]
    else:
        place = lasts[precisions.argmax()]
    high = float(shipped.scores[place])
    low = float(shipped.scores[place + 1]) if place + 1 < len(shipped.scores) else 0.0
    return threshold if low < threshold <= high else (low + high) / 2


def _judged(truth: Sequence[npt.NDArray[Any]], found: Sequence[Detections], classes: int) -> list[Judged]:
    scores: list[list[float]] = [[] for _ in range(classes)]
    right: list[list[bool]] = [[] for _ in range(classes)]
    objects = [0] * classes
    for rows, detections in zip(truth, found, strict=True):
        for label in range(classes):
            real = rows[rows[:, 0] == label, 1:]
            own = detections[detections[:, 0] == label]
            objects[label] += len(real)
            scores[label] += own[:, 1].tolist()
            right[label] += _matches(real, own[:, 2:])
    made = []
    for score, hit, count in zip(scores, right, objects, strict=True):
        order = np.argsort(-np.array(score), kind="stable")
        made.append(Judged(scores=np.array(score)[order], right=np.array(hit, bool)[order], objects=count))
    return made


def _matches(real: npt.NDArray[Any], boxes: npt.NDArray[Any]) -> list[bool]:
    """Whether each box, surest first, is the first on an object that it overlaps most of those that are left."""
    free = np.ones(len(real), bool)
    hits = []
    for box in boxes:
        sides = np.minimum(box[2:], real[:, 2:]) - np.maximum(box[:2], real[:, :2])
        shared = sides.clip(0).prod(axis=1)
        areas = (real[:, 2:] - real[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
        overlaps = np.where(free, shared / np.maximum(areas - shared, ROUNDING), 0)
        best = int(overlaps.argmax()) if len(real) else -1
        hit = best >= 0 and bool(overlaps[best] >= OVERLAP)
        if hit:
            free[best] = False
        hits.append(hit)
    return hits


def _pool(parts: Sequence[Judged]) -> Judged:
    scores = np.concatenate([each.scores for each in parts])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([each.right for each in parts])
    return Judged(scores=scores[order], right=right[order], objects=sum(each.objects for each in parts))
