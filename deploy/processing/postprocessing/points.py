"""Keypoints: the joints of a figure, in pixels of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.processing.postprocessing.base import Answer, Array, OfClasses
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Points(OfClasses):
    """Heatmaps (1, points, rows, columns) or places (1, points, 2 or 3), or flat."""

    gives = "points, in the classes' order: each name, x, y (pixels of the picture), score"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        window = prepared.window
        if window is None:
            raise ValueError("keypoints are of a picture, and there is none")
        found = read_points(outputs[0], np.array([window.size[::-1]]), len(self.classes))[0]
        places = window.to_picture(found[:, :2])
        rows = zip(self.classes, places.tolist(), found[:, 2].tolist(), strict=True)
        return {"points": [{"name": name, "x": x, "y": y, "score": score} for name, (x, y), score in rows]}


def read_points(output: npt.NDArray[Any], sides: npt.NDArray[Any], points: int) -> npt.NDArray[np.float64]:
    """Decode heatmaps or places to points (samples, points, 3): x and y in pixels of the input, and how sure.

    A place of a heatmap stands for the middle of its part of the input; the largest is moved a quarter of a place towards
    the larger neighbour (Sun et al. 2019).

    Args:
        output: heatmaps (samples, points, rows, columns), or places (samples, points, 2 or 3), shares of its sides.
        sides: width and height of each input, (samples, 2).
        points: how many there are.
    """
    values = np.asarray(output, np.float64)
    sides = np.asarray(sides, np.float64)[:, None]
    if values.ndim != 4:
        places = values.reshape(len(values), points, -1)
        sure = 1 / (1 + np.exp(-places[..., 2:])) if places.shape[2] == 3 else np.ones((len(values), points, 1))
        return np.concatenate([places[..., :2] * sides, sure], axis=2)
    rows, columns = values.shape[2:]
    best = values.reshape(*values.shape[:2], -1).argmax(axis=2)
    down, across = np.divmod(best, columns)
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    n, k = np.arange(len(values))[:, None], np.arange(values.shape[1])[None]
    step_x = np.sign(padded[n, k, down + 1, across + 2] - padded[n, k, down + 1, across]) / 4
    step_y = np.sign(padded[n, k, down + 2, across + 1] - padded[n, k, down, across + 1]) / 4
    places = np.stack([(across + 0.5 + step_x) / columns, (down + 0.5 + step_y) / rows], axis=2)
    return np.concatenate([places * sides, values[n, k, down, across][..., None]], axis=2)
