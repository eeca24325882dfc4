"""A figure cut out of a picture by its box (the source coco_keypoints)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.figures import cut_figure, placed
from deploy.processing.normalisation import Normalise
from deploy.processing.pictures import upright
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, Window, sides
from deploy.processing.preprocessing.pixels import TAKES, as_inputs, input_faults, normalise_from, opened
from profiles.errors import UserError

FARTHEST = 2.0**20
"""Pixels: a box is not farther out, and not larger."""


@final
@dataclass(frozen=True, kw_only=True)
class Figure(Preprocessing):
    """A figure in the middle of the input, not stretched, with ``padding`` of its box's sides around it.

    ``takes_bytes``: whether the model normalises itself.
    """

    takes, takes_box = TAKES, True
    size: tuple[int, int]
    padding: float
    normalise: Normalise
    takes_bytes: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Figure:
        padding = float(data["padding"])
        if not 0 <= padding <= 4:
            raise ValueError(f"padding {padding}")
        takes_bytes = bool(data.get("bytes"))
        return cls(size=sides(data), padding=padding, normalise=normalise_from(data), takes_bytes=takes_bytes)

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        channels = self.normalise.channels
        with opened(raw) as picture:
            image = upright(picture, channels)
            made = placed(self.size, _checked(box, image.size), self.padding)
            pixels = cut_figure(image, made, self.size, channels)
        scale = (float(made[0, 0]), float(made[1, 1]))
        window = Window(picture=image.size, size=self.size, scale=scale, offset=(float(made[0, 2]), float(made[1, 2])))
        return Prepared(
            inputs=as_inputs(np.moveaxis(pixels, 2, 0), self.normalise, takes_bytes=self.takes_bytes), window=window
        )

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return input_faults(inputs, self.size, self.normalise, takes_bytes=self.takes_bytes)


def _checked(box: Box | None, size: tuple[int, int]) -> Box:
    """Return a figure's box, of the whole picture where none is given.

    Raises:
        UserError: it is none.
    """
    if box is None:
        return (0.0, 0.0, float(size[0]), float(size[1]))
    values = [float(value) for value in box]
    is_bounded = len(values) == 4 and all(math.isfinite(value) and abs(value) <= FARTHEST for value in values)
    if not is_bounded or min(values[2:]) < 1:
        raise UserError(f"box is x, y, width and height of a figure in pixels of the picture; given: {list(box)[:8]}")
    return values
