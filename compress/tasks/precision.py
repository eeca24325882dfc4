"""Average precision of detections, by faster-coco-eval where it is installed, by pycocotools elsewhere: the same numbers."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.tasks.base import Metric, Predict
from deploy.processing.detection.suppression import MOST_DETECTIONS, Detections, detections, suppress

__all__ = ["CHUNK", "METRIC", "UNIT", "Decode", "Detections", "average_precision", "detections", "suppress"]

Decode = Callable[[list[npt.NDArray[Any]]], list[Detections]]
"""Raw outputs of a batch to the detections in each sample."""

CHUNK = 32
METRIC, UNIT = "mAP@.5", "%"


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


EVALUATORS = ("faster_coco_eval", "pycocotools")
"""Packages with COCO's evaluation, the fastest first."""


def evaluators() -> list[str]:
    """Return those of ``EVALUATORS`` that are installed."""
    return [name for name in EVALUATORS if find_spec(name) is not None]


def coco_kinds(package: str) -> tuple[Any, Any]:
    """Return the classes of a data set and of its evaluation, of a package of ``EVALUATORS``."""
    if package == "faster_coco_eval":
        faster = importlib.import_module(package)
        return faster.COCO, faster.COCOeval_faster
    return importlib.import_module(f"{package}.coco").COCO, importlib.import_module(f"{package}.cocoeval").COCOeval


def _mean(values: Sequence[Any]) -> float:
    return 100 * float(np.mean(values)) if values else 0.0


def _precision(truth: Sequence[npt.NDArray[Any]], predictions: Sequence[Detections]) -> dict[int, npt.NDArray[Any]]:
    """Average precision of each class that the samples hold, at IoU .5, .55 ... .95, by label."""
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
    kinds = coco_kinds(evaluators()[0])
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in (references, results):
            side = kinds[0]()
            side.dataset = {**about, "annotations": entries}
            side.createIndex()
            sides.append(side)
        judge = kinds[1](*sides, "bbox")
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
