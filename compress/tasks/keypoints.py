"""Keypoints: where the joints of a figure are; average precision by object keypoint similarity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task, first_output, first_shape, readable_batches, split_faults
from compress.tasks.precision import coco_precision
from deploy.engines.inputs import not_finite
from deploy.processing.postprocessing.points import read_points
from profiles.errors import UserError

CHUNK = 64
COCO_SIGMAS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
"""Ten times what the similarity allows for each of COCO's 17 points (cocodataset.org, keypoints evaluation)."""

USUAL_SIGMA = 0.05
TENTH = 10.0
"""Regressed places are compared in tenths of the input's sides."""


def usual_sigmas(points: int) -> tuple[float, ...]:
    """Return how far off each of so many points may be, as a share of the figure's size: COCO's of 17."""
    return tuple(s / 10 for s in COCO_SIGMAS) if points == len(COCO_SIGMAS) else (USUAL_SIGMA,) * points


@final
class Keypoints(Task):
    """Keypoints of one figure in the middle of each input; targets (samples, points + 1, 3) of ``coco_keypoints``.

    Two kinds of output are read, by their shape. Heatmaps (samples, points, rows, columns): a place stands for the middle
    of its part of the input, the largest says where a point is (a quarter of a place towards the larger neighbour: Sun et
    al. 2019) and how sure that is; trained on Gaussians of ``spread`` places by the square error of those points that are
    labelled. Regression, (samples, points, 2 or 3) or the same flat: x and y as shares of the input's width and height, and
    a logit of whether the point is labelled; trained by Huber's loss and, of the third, binary cross-entropy.

    The metric is COCO's average precision at object keypoint similarities of 0.5 to 0.95, in per cent, by pycocotools; each
    input counts as an image with its one figure.

    Args:
        spread: deviation of the Gaussians that heatmaps learn, in places.
        sigmas: how far off, as a share of a figure's size, each point may be; COCO's where there are 17 points, else 0.05.
    """

    metric = "AP"
    unit = "%"
    stage_losses = {"distill": ("task", "l2"), "recovery": ("task", "l2")}

    def __init__(self, *, spread: float = 1.5, sigmas: Sequence[float] = ()) -> None:
        faults = [f"[task] spread is above 0; given: {spread}"] if spread <= 0 else []
        faults += [f"[task] sigmas are above 0; given: {list(sigmas)}"] if any(each <= 0 for each in sigmas) else []
        if faults:
            raise UserError(*faults)
        self._spread, self._sigmas = spread, tuple(sigmas)

    def check(self, splits: Splits) -> None:
        faults: list[str] = []
        points = len(splits.classes)
        if self._sigmas and len(self._sigmas) != points:
            faults.append(f"[task] sigmas has a number for each point, {points}; given: {len(self._sigmas)}")
        faults += split_faults(splits, lambda name, samples: _faults_of(name, samples, points))
        if faults:
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets[:, :-1, 2] > 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        points = len(splits.classes)
        given = first_shape(outputs)
        heatmaps = len(given) == 4 and given[:2] == (2, points)
        places = len(given) == 3 and given[:2] == (2, points) and given[2] in (2, 3)
        flat = given in ((2, 2 * points), (2, 3 * points))
        if not heatmaps and not places and not flat:
            words = f"heatmaps (2, {points}, rows, columns) or places (2, {points}, 2 or 3), flat or not"
            raise UserError(f"gives {given} for two samples; keypoints of {points} points reads {words}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the error of the labelled points; a model that says nothing of them has about 1 with heatmaps."""
        given = self._first(outputs)
        labelled = targets[:, :-1, 2] > 0
        count = labelled.sum().clamp(min=1)
        if given.dim() == 4:
            wanted = self._gaussians(targets, given.shape[-2:])
            squares = (given - wanted).square().sum(dim=(2, 3)) / self._energy
            return (squares * labelled).sum() / count
        places = given.reshape(len(given), targets.shape[1] - 1, -1)
        shares = targets[:, :-1, :2] / targets[:, -1:, 1:]
        apart = functional.huber_loss(TENTH * places[..., :2], TENTH * shares, reduction="none").sum(dim=-1)
        loss = (apart * labelled).sum() / count
        if places.shape[2] == 3:
            loss = loss + functional.binary_cross_entropy_with_logits(places[..., 2], labelled.to(places.dtype))
        return loss

    def logits(self, outputs: Any) -> Tensor:
        """Return heatmaps or places for losses on values, scaled so that ``l2`` has the unit of ``loss``."""
        given = self._first(outputs)
        if given.dim() == 4:
            return given * math.sqrt(given.shape[-2] * given.shape[-1] / self._energy)
        return TENTH * given

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "points"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        found: list[npt.NDArray[np.float64]] = []
        targets: list[npt.NDArray[Any]] = []
        for batch in samples.batches(CHUNK):
            found += list(read_points(predict(batch.inputs)[0], batch.targets[:, -1, 1:], batch.targets.shape[1] - 1))
            targets += list(batch.targets)
        points = len(targets[0]) - 1
        precision = _precision(targets, found, self._sigmas or usual_sigmas(points))
        pairs = zip(found, targets, strict=True)
        off = [np.linalg.norm(f[t[:-1, 2] > 0, :2] - t[:-1][t[:-1, 2] > 0, :2], axis=1) for f, t in pairs]
        others = {"AP@.5": 100 * float(precision[0]), "AP@.75": 100 * float(precision[5])}
        others["mean distance px"] = float(np.concatenate(off).mean())
        return Metric(
            name=self.metric, value=100 * float(precision.mean()), unit=self.unit, samples=len(samples), others=others
        )

    @property
    def _energy(self) -> float:
        """The sum over all places of a Gaussian's square."""
        return math.pi * self._spread**2

    def _gaussians(self, targets: Tensor, size: Sequence[int]) -> Tensor:
        """Draw each point as a Gaussian on heatmaps of a size, (samples, points, rows, columns)."""
        cells = torch.tensor([size[1], size[0]], dtype=targets.dtype, device=targets.device)
        x, y = (targets[:, :-1, :2] / targets[:, -1:, 1:] * cells).unbind(dim=-1)
        across, down = (torch.arange(n, dtype=targets.dtype, device=targets.device) + 0.5 for n in (size[1], size[0]))
        squares = (across - x[..., None])[:, :, None, :] ** 2 + (down - y[..., None])[..., None] ** 2
        return (-squares / (2 * self._spread**2)).exp()

    def _first(self, outputs: Any) -> Tensor:
        return first_output(outputs)


def _precision(
    targets: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]], sigmas: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Average precision at each similarity from 0.5 to 0.95, (10,), of figures of which each is an image's one."""
    truth, results = [], []
    for number, (target, points) in enumerate(zip(targets, found, strict=True)):
        area, width, height = (float(value) for value in target[-1])
        entry = {"image_id": number, "category_id": 1, "bbox": [0, 0, width, height], "area": area}
        seen = int((target[:-1, 2] > 0).sum())
        truth.append({**entry, "keypoints": target[:-1].astype(float).reshape(-1).tolist(), "num_keypoints": seen})
        results.append({**entry, "keypoints": points.reshape(-1).tolist(), "score": float(points[:, 2].mean())})
    values = coco_precision([{}] * len(truth), truth, results, "keypoints", sigmas)
    precision: npt.NDArray[np.float64] = values.get(1, np.zeros(10))
    return precision


def _faults_of(name: str, samples: Samples, points: int) -> list[str]:
    unreadable: list[str] = []
    labelled = 0
    for batch in readable_batches(samples, CHUNK, unreadable):
        if batch.targets.shape[1:] != (points + 1, 3):
            words = f"keypoints reads (samples, {points + 1}, 3): a row a point, and area, width and height"
            return [f"data: the {name} split has targets of shape {batch.targets.shape}; {words}"]
        if not_finite(batch.inputs) or not np.isfinite(batch.targets).all():
            return [f"data: the {name} split holds NaN or infinity"]
        if not np.isin(batch.targets[:, :-1, 2], (0, 1, 2)).all() or (batch.targets[:, -1] <= 0).any():
            return [f"data: the {name} split has visibilities other than 0, 1 and 2, or areas and sides of 0"]
        labelled += int((batch.targets[:, :-1, 2] > 0).sum())
    if unreadable:
        return unreadable
    if name in ("validation", "test") and not labelled:
        return [f"data: the {name} split has no labelled point; models are judged on it"]
    return []
