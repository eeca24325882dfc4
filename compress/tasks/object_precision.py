"""Average precision of what detectors say beside boxes: masks by their overlap, keypoints by their similarity (OKS)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.tasks.base import Metric, Predict
from compress.tasks.precision import CHUNK, METRIC, UNIT, box_entry, coco_draws, coco_precision, mean_per_cent
from deploy.processing.detection.objects import Objects
from deploy.processing.detection.rows import ObjectKind, draw, points_of

Decode = Callable[[list[npt.NDArray[Any]]], Iterable[Objects]]
"""Raw outputs of a batch to the objects in each sample."""
Entry = dict[str, Any]


def object_precision(
    read: Decode, predict: Predict, samples: Samples, kind: ObjectKind, sigmas: Sequence[float], *, draws: bool = False
) -> Metric:
    """Evaluate average precision of masks or keypoints in per cent, with that of the boxes beside it.

    The metric is mAP@.5 of masks, compared at the input's size, and AP of keypoints, the mean over similarities of .5 to
    .95, as COCO has both; a figure without a labelled point does not count, for or against.

    Args:
        sigmas: of keypoints, how far off each may be, as a share of the figure's size (COCO's k is twice that).
        draws: whether it is valued on draws of the samples too.
    """
    images: list[Entry] = []
    references: list[Entry] = []
    results: list[Entry] = []
    for batch in samples.batches(CHUNK):
        height, width = np.asarray(batch.inputs).shape[-2:]
        for rows, found in zip(batch.targets, read(predict(batch.inputs)), strict=True):
            image = len(images)
            images.append({"height": height, "width": width})
            real = rows[rows[:, 0] >= 0]
            references += [_reference(image, row, kind, (height, width)) for row in real]
            results += _results(image, found, kind)
    masks = kind == "masks"
    values = coco_precision(images, references, results, "segm" if masks else "keypoints", sigmas)
    boxes = coco_precision(images, references, results, "bbox")
    names = {label: samples.classes[label] if samples.classes else str(label) for label in values}
    whole = mean_per_cent([each.mean() for each in values.values()])
    half = mean_per_cent([each[0] for each in values.values()])
    others = {"mAP@.5:.95" if masks else "AP@.5": whole if masks else half}
    others[f"box {METRIC}"] = mean_per_cent([each[0] for each in boxes.values()])
    others |= {f"AP@.5 {names[label]}": 100 * float(each[0]) for label, each in values.items()}
    name = f"mask {METRIC}" if masks else "OKS AP"
    drawn: tuple[float, ...] = ()
    if draws:
        how = ("segm", (), (0.5,)) if masks else ("keypoints", sigmas, ())
        drawn = coco_draws(images, references, results, *how)
    value = half if masks else whole
    return Metric(name=name, value=value, unit=UNIT, samples=len(samples), others=others, drawn=drawn)


def _reference(image: int, row: npt.NDArray[Any], kind: ObjectKind, size: tuple[int, int]) -> Entry:
    """Return the annotation of a target's row."""
    entry = box_entry(image, int(row[0]), row[1:5])
    if kind == "masks":
        mask = draw(points_of(row), *size)
        return {**entry, "segmentation": _encoded(mask), "area": float(mask.sum())}
    points = points_of(row).astype(np.float64)
    seen = int((points[:, 2] > 0).sum())
    return {**entry, "keypoints": points.reshape(-1).tolist(), "num_keypoints": seen, "area": float(row[-1])}


def _results(image: int, found: Objects, kind: ObjectKind) -> list[Entry]:
    """Return the annotations of what was found in a sample."""
    entries = [{**box_entry(image, int(row[0]), row[2:]), "score": float(row[1])} for row in found.rows]
    if kind == "masks":
        assert found.masks is not None, "checked with the model's outputs"
        return [{**entry, "segmentation": _encoded(mask)} for entry, mask in zip(entries, found.masks, strict=True)]
    assert found.keypoints is not None, "checked with the model's outputs"
    flat = found.keypoints.astype(np.float64).reshape(len(found.rows), -1)
    return [{**entry, "keypoints": points.tolist()} for entry, points in zip(entries, flat, strict=True)]


def _encoded(mask: npt.NDArray[np.bool_]) -> Any:
    """Return a mask as COCO's run lengths."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask, np.uint8))
