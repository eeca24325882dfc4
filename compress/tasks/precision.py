"""Average precision of detections, by faster-coco-eval where it is installed, by pycocotools elsewhere: the same numbers."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.tasks.base import Metric, Predict
from compress.tasks.drawn_precision import matched, precision_of_draws
from deploy.processing.detection.suppression import MOST_DETECTIONS, Detections, detections, suppress

__all__ = ["CHUNK", "METRIC", "UNIT", "Decode", "Detections", "average_precision", "detections", "suppress"]

Decode = Callable[[list[npt.NDArray[Any]]], list[Detections]]
"""Raw outputs of a batch to the detections in each sample."""

CHUNK = 32
METRIC, UNIT = "mAP@.5", "%"


def average_precision(read: Decode, predict: Predict, samples: Samples, *, draws: bool = False) -> Metric:
    """Evaluate mean average precision in per cent: mAP@.5 as the metric; mAP@.5:.95 and each class beside it.

    Args:
        draws: whether it is valued on draws of the samples too.
    """
    predictions: list[Detections] = []
    truth: list[npt.NDArray[Any]] = []
    for batch in samples.batches(CHUNK):
        predictions += read(predict(batch.inputs))
        truth += list(batch.targets)
    entries = _entries(truth, predictions)
    precision = coco_precision(*entries, "bbox")
    drawn = coco_draws(*entries, "bbox", thresholds=(0.5,)) if draws else ()
    classes = {label: samples.classes[label] if samples.classes else str(label) for label in precision}
    others = {"mAP@.5:.95": mean_per_cent([values.mean() for values in precision.values()])}
    others |= {f"AP@.5 {classes[label]}": 100 * float(values[0]) for label, values in precision.items()}
    value = mean_per_cent([values[0] for values in precision.values()])
    return Metric(name=METRIC, value=value, unit=UNIT, samples=len(samples), others=others, drawn=drawn)


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


def mean_per_cent(values: Sequence[Any]) -> float:
    """Compute the mean of shares in per cent; 0 of none."""
    return 100 * float(np.mean(values)) if values else 0.0


Entry = Mapping[str, Any]
Kind = Literal["bbox", "segm", "keypoints"]


def _entries(
    truth: Sequence[npt.NDArray[Any]], predictions: Sequence[Detections]
) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return images, boxes that are there and boxes that were found as COCO's annotations."""
    objects = [(i, int(row[0]), row[1:5]) for i, rows in enumerate(truth) for row in rows if row[0] >= 0]
    scored = [(i, int(row[0]), row[2:], float(row[1])) for i, rows in enumerate(predictions) for row in rows]
    references = [box_entry(*each) for each in objects]
    return [{}] * len(truth), [*references], [{**box_entry(*each[:3]), "score": each[3]} for each in scored]


def coco_draws(
    images: Sequence[Entry],
    references: Sequence[Entry],
    results: Sequence[Entry],
    kind: Kind,
    sigmas: Sequence[float] = (),
    thresholds: Sequence[float] = (),
) -> tuple[float, ...]:
    """Compute the mean average precision in per cent at some thresholds (COCO's ten without) of images drawn anew.

    They are matched by pycocotools, whichever evaluates, for it alone tells its matches. None where nothing was found.
    """
    labels, scored = _scored(references, results)
    if not scored:
        return ()
    judge = _judge(coco_kinds("pycocotools"), images, references, scored, labels, kind, sigmas, thresholds)
    return precision_of_draws(matched(judge, len(images)), len(images))


def coco_precision(
    images: Sequence[Entry],
    references: Sequence[Entry],
    results: Sequence[Entry],
    kind: Kind,
    sigmas: Sequence[float] = (),
) -> dict[int, npt.NDArray[Any]]:
    """Evaluate COCO's average precision of each class that the references hold, (10,) at .5, .55 ... .95, by label.

    Args:
        images: of each its height and width where masks are compared; they are counted from 0.
        references, results: COCO's annotations, without ids; results have a score.
        sigmas: of ``keypoints``, how far off each may be.
    """
    labels, scored = _scored(references, results)
    if not scored:
        return {label: np.zeros(10) for label in labels}
    judge = _judge(coco_kinds(evaluators()[0]), images, references, scored, labels, kind, sigmas)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate()
    # (IoU thresholds, recall thresholds, classes, areas, limits on detections); -1 where there is nothing to find
    values = judge.eval["precision"][:, :, :, 0, 0].clip(min=0)
    return {label: values[:, :, index].mean(axis=1) for index, label in enumerate(labels)}


def _scored(references: Sequence[Entry], results: Sequence[Entry]) -> tuple[list[int], list[Entry]]:
    """Return the labels that references hold, and the results of these."""
    labels = sorted({each["category_id"] for each in references if each.get("num_keypoints", 1)})
    return labels, [each for each in results if each["category_id"] in labels]


def _judge(
    kinds: tuple[Any, Any],
    images: Sequence[Entry],
    references: Sequence[Entry],
    scored: Sequence[Entry],
    labels: Sequence[int],
    kind: Kind,
    sigmas: Sequence[float],
    thresholds: Sequence[float] = (),
) -> Any:
    """Match results with references by COCO's evaluation, over all areas at once."""
    about = {
        "images": [{**each, "id": i} for i, each in enumerate(images)],
        "categories": [{"id": label} for label in labels],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in (references, scored):
            side = kinds[0]()
            # ids from 1: to COCOeval an object of id 0 is one that was not found
            side.dataset = {**about, "annotations": [{"iscrowd": 0, **each, "id": n} for n, each in enumerate(entries, 1)]}
            side.createIndex()
            sides.append(side)
        judge = kinds[1](*sides, kind)
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.params.maxDets = [MOST_DETECTIONS]
        if sigmas:
            judge.params.kpt_oks_sigmas = np.array(sigmas)
        if thresholds:
            judge.params.iouThrs = np.array(thresholds)
        judge.evaluate()
    return judge


def box_entry(image: int, label: int, corners: npt.NDArray[Any]) -> dict[str, Any]:
    """Return COCO's annotation of a box, x1, y1, x2, y2 in pixels."""
    x1, y1, x2, y2 = (float(value) for value in corners)
    return {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
