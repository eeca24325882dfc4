"""Detections, and average precision by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.tasks.base import Metric, Predict

Detections = npt.NDArray[np.float32]
"""(detections, 6): [label, score, x1, y1, x2, y2] in pixels of the input, best first."""

Decode = Callable[[list[npt.NDArray[Any]]], list[Detections]]
"""Raw outputs of a batch to the detections in each sample."""

CHUNK = 32
MOST_DETECTIONS = 100
"""What COCO's metric looks at in a picture."""

MOST_CANDIDATES = 1000
METRIC, UNIT = "mAP@.5", "%"


def suppress(
    boxes: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any], most_overlap: float
) -> npt.NDArray[np.int64]:
    """Suppress non-maxima within each class; return the indices of the remaining boxes, best first.

    A box goes when its intersection over union with a better one of its class is above ``most_overlap``. Boxes are
    corners of shape (boxes, 4).
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Any] = []
    while len(order) and len(kept) < MOST_DETECTIONS:
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = sides.clip(0).prod(axis=1)
        union = areas[best] + areas[order] - shared
        order = order[(shared <= most_overlap * union) | (labels[order] != labels[best])]
    return np.array(kept, np.int64)


def detections(boxes: npt.NDArray[Any], scores: npt.NDArray[Any], *, least_score: float, most_overlap: float) -> Detections:
    """Decode boxes (places, 4) and class scores (places, classes) of one sample into its detections."""
    places, labels = np.nonzero(scores >= least_score)
    confidences = scores[places, labels]
    if len(confidences) > MOST_CANDIDATES:
        first = np.argpartition(-confidences, MOST_CANDIDATES)[:MOST_CANDIDATES]
        places, labels, confidences = places[first], labels[first], confidences[first]
    kept = suppress(boxes[places], confidences, labels, most_overlap)
    return np.column_stack([labels[kept], confidences[kept], boxes[places[kept]]]).astype(np.float32).reshape(-1, 6)


def average_precision(read: Decode, predict: Predict, samples: Samples) -> Metric:
    """Evaluate mean average precision in per cent: mAP@.5 as the metric; mAP@.5:.95 and each class beside it."""
    predictions: list[Detections] = []
    truth: list[npt.NDArray[Any]] = []
    for batch in samples.batches(CHUNK):
        predictions += read(predict(batch.inputs))
        truth += list(batch.targets)
    precision = _precision(truth, predictions)
    classes = {label: samples.classes[label] if samples.classes else str(label) for label in precision}
    others = {"mAP@.5:.95": _mean([values.mean() for values in precision.values()])}
    others |= {f"AP@.5 {classes[label]}": 100 * float(values[0]) for label, values in precision.items()}
    value = _mean([values[0] for values in precision.values()])
    return Metric(name=METRIC, value=value, unit=UNIT, samples=len(samples), others=others)


def _mean(values: Sequence[Any]) -> float:
    return 100 * float(np.mean(values)) if values else 0.0


def _precision(truth: Sequence[npt.NDArray[Any]], predictions: Sequence[Detections]) -> dict[int, npt.NDArray[Any]]:
    """Average precision of each class that the samples hold, at IoU .5, .55 ... .95, by label."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [(i, int(row[0]), row[1:]) for i, rows in enumerate(truth) for row in rows if row[0] >= 0]
    labels = sorted({label for _, label, _ in objects})
    scored = [(i, int(row[0]), row[2:], float(row[1])) for i, rows in enumerate(predictions) for row in rows]
    scored = [each for each in scored if each[1] in labels]
    if not scored:
        return {label: np.zeros(10) for label in labels}
    about = {"images": [{"id": i} for i in range(len(truth))], "categories": [{"id": label} for label in labels]}
    # ids from 1: to COCOeval an object of id 0 is one that was not found
    references = [{"id": n, "iscrowd": 0, **_entry(*each)} for n, each in enumerate(objects, 1)]
    results = [{"id": n, **_entry(*each[:3]), "score": each[3]} for n, each in enumerate(scored, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in (references, results):
            side = COCO()
            side.dataset = {**about, "annotations": entries}
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.params.maxDets = [MOST_DETECTIONS]
        judge.evaluate()
        judge.accumulate()
    # (IoU thresholds, recall thresholds, classes, areas, limits on detections)
    values = judge.eval["precision"][:, :, :, 0, 0]
    return {label: values[:, :, index].mean(axis=1) for index, label in enumerate(labels)}


def _entry(image: int, label: int, corners: npt.NDArray[Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in corners)
    return {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
