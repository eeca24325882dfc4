"""Detections with what a head says beyond boxes: keypoints, or masks made of prototypes. numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.processing.detection.base import Reading
from deploy.processing.detection.suppression import Detections


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """Detections of one sample, best first.

    Attributes:
        rows: (objects, 6): [label, score, x1, y1, x2, y2] in pixels of the input.
        keypoints: (objects, points, 3): x, y in pixels and a score; None where the head gives none.
        masks: (objects, height, width) of the input, true where the object is; None where the head gives none.
    """

    rows: Detections
    keypoints: npt.NDArray[np.float32] | None = None
    masks: npt.NDArray[np.bool_] | None = None


def objects_of(
    rows: Detections, places: npt.NDArray[np.int64], reading: Reading, sample: int, size: tuple[int, int]
) -> Objects:
    """Add to detections what ``reading`` says of their places.

    Args:
        size: height and width of the input, the masks' size.
    """
    points = None if reading.keypoints is None else np.asarray(reading.keypoints[sample][places], np.float32)
    if reading.prototypes is None:
        return Objects(rows=rows, keypoints=points)
    coefficients, prototypes = reading.coefficients[sample][places], reading.prototypes[sample]
    masks = [mask_of(own, prototypes, row[2:], size) for own, row in zip(coefficients, rows, strict=True)]
    return Objects(rows=rows, keypoints=points, masks=np.array(masks, bool).reshape(len(rows), *size))


def mask_of(
    coefficients: npt.NDArray[Any], prototypes: npt.NDArray[Any], box: npt.NDArray[Any], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Compute a mask: where the weighted sum of prototypes is above 0, inside the box (YOLACT, Bolya et al. 2019).

    Args:
        coefficients: (prototypes,); ``prototypes``: (prototypes, rows, columns), over the whole input.
        box: x1, y1, x2, y2 in pixels of the input; a pixel is inside where its middle is.
        size: height and width of the input; the sum is interpolated to it, linearly between the middles of cells.

    Returns:
        (height, width)
    """
    height, width = size
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is not above 0
        coarse = np.tensordot(coefficients, prototypes, 1)
        fine = _interpolation(coarse.shape[0], height) @ coarse @ _interpolation(coarse.shape[1], width).T
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    return np.asarray((fine > 0) & inside)


def _interpolation(given: int, wanted: int) -> npt.NDArray[np.float32]:
    """Return the matrix (wanted, given) that interpolates linearly between middles of cells, constant beyond them."""
    at = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
    low = np.minimum(at.astype(np.int64), max(given - 2, 0))
    matrix = np.zeros((wanted, given), np.float32)
    matrix[np.arange(wanted), low] = 1 - (at - low)
    matrix[np.arange(wanted), np.minimum(low + 1, given - 1)] += at - low
    return matrix


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return a mask's runs as COCO counts them: column by column, of pixels outside first.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    [1, 3]
    """
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask.ravel(order="F")[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff(np.concatenate([[0], changes]))]
