"""Segmentation: the class of each pixel of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.processing.postprocessing.base import Answer, Array, OfClasses, scores_of
from deploy.processing.preprocessing.base import Prepared, Window


@final
@dataclass(frozen=True, kw_only=True)
class Mask(OfClasses):
    """The largest of logits (1, classes, rows, columns), enlarged bilinearly to the input and then moved to the picture."""

    gives = "mask (the number of each pixel's class, (height, width) of the picture), classes (their names)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        logits = scores_of(outputs, self.classes, axes=4, axis=1).astype(np.float32)
        window = prepared.window
        size = logits.shape[1:] if window is None else window.size
        mask = enlarged(logits, (size[0], size[1])).argmax(axis=0).astype(np.int32)
        return {"mask": mask if window is None else to_picture(mask, window), "classes": list(self.classes)}


def enlarged(values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize (channels, rows, columns) bilinearly, the middle of a pixel being its place, as losses and metrics do.

    That is ``torch.nn.functional.interpolate`` with ``align_corners=False``; nothing is averaged where it shrinks.
    """
    if values.shape[1:] == size:
        return values
    (y0, y1, down), (x0, x1, across) = (_between(old, new) for old, new in zip(values.shape[1:], size, strict=True))
    rows: npt.NDArray[Any] = values[:, y0] * (1 - down)[:, None] + values[:, y1] * down[:, None]
    return np.asarray(rows[:, :, x0] * (1 - across) + rows[:, :, x1] * across, np.float32)


def _between(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the two old places that each new one lies between, and its share of the second."""
    at = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(min=0).astype(np.float32)
    first = np.minimum(at.astype(np.int64), old - 1)
    return first, np.minimum(first + 1, old - 1), (at - first).astype(np.float32)


def to_picture(mask: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """Move a mask of the input to the picture, to the nearest pixel; what the input does not show has its nearest edge."""
    width, height = window.picture
    rows = ((np.arange(height) + 0.5) * window.scale[1] + window.offset[1]).astype(np.int64).clip(0, mask.shape[0] - 1)
    columns = ((np.arange(width) + 0.5) * window.scale[0] + window.offset[0]).astype(np.int64).clip(0, mask.shape[1] - 1)
    return np.asarray(mask[rows[:, None], columns])
