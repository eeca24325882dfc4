"""Losses of masks and keypoints that a detector's places answer with, on labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compress.losses.base import cells_inside
from deploy.processing.detection.base import Reading
from deploy.processing.detection.rows import draw, points_of

TINY = 1e-6
MOST_PLACES = 256
"""Places of a sample whose masks are computed: more take memory, and say the same."""


def keypoints_loss(keypoints: Tensor, rows: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Compute 1 - OKS of the labelled points, and the cross-entropy of whether each is labelled (Maji et al. 2022).

    YOLO-Pose, equations 3 and 4: the mean over places of the mean over labelled points of 1 - exp(-d^2 / (2 s^2 k^2)), with
    s^2 the figure's area and k = 2 sigma as in COCO's evaluation; and the mean of the binary cross-entropy of the scores.

    Args:
        keypoints: of places that answer for a figure, (places, points, 3): x and y in pixels, score from 0 to 1.
        rows: of their figures, (places, 6 + 3 points) of ``deploy.processing.detection.rows``.
    """
    wanted = points_of(rows)
    labelled = wanted[..., 2] > 0
    off = (keypoints[..., :2] - wanted[..., :2]).square().sum(dim=-1)
    allowed = 2 * (2 * torch.tensor(sigmas, dtype=off.dtype, device=off.device)).square() * rows[:, -1:].clamp(min=1)
    unlike = (1 - (-off / allowed).exp()) * labelled
    figures = unlike.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)
    sure = functional.binary_cross_entropy(keypoints[..., 2].clamp(TINY, 1 - TINY), labelled.to(off.dtype))
    total: Tensor = figures.sum() / labelled.any(dim=1).sum().clamp(min=1) + sure
    return total


def masks_loss(reading: Reading, answers: Tensor, owners: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the cross-entropy of masks inside their boxes, over each box's area (YOLACT, Bolya et al. 2019, section 3.3).

    The mean over places that answer for an object; of a sample the first ``MOST_PLACES`` of them.

    Args:
        answers: which places answer, (samples, places); ``owners``: for which object.
        targets: (samples, most, 5 + 3 vertices) of ``deploy.processing.detection.rows``.
        size: height and width of the input in pixels.
    """
    total: Tensor = reading.prototypes.sum() * 0
    count = 0
    rows, columns = reading.prototypes.shape[-2:]
    scale = targets.new_tensor([columns / size[1], rows / size[0]])
    for sample in range(len(targets)):
        places = answers[sample].nonzero()[:MOST_PLACES, 0]
        if not len(places):
            continue
        objects, which = torch.unique(owners[sample][places], return_inverse=True)
        logits = torch.einsum("pc,chw->phw", reading.coefficients[sample][places], reading.prototypes[sample])
        drawn = drawn_masks(targets[sample][objects], scale, (rows, columns)).to(logits)[which]
        boxes = targets[sample][objects][which, 1:5] * scale.repeat(2)
        apart = functional.binary_cross_entropy_with_logits(logits, drawn, reduction="none") * cells_inside(
            boxes, rows, columns
        )
        area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(dim=1)
        total, count = total + (apart.sum(dim=(1, 2)) / area).sum(), count + len(places)
    return total / max(count, 1)


def drawn_masks(rows: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw the masks of objects' rows on a map of ``size``, (objects, rows, columns) of bool.

    Args:
        scale: cells of the map for a pixel of the input, across and down.
    """
    points = points_of(rows.detach().cpu()).clone()
    points[..., :2] *= scale.cpu()
    masks = [draw(each, *size) for each in points.numpy()]
    return torch.from_numpy(np.array(masks).reshape(-1, *size))
