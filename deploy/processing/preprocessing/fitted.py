"""Pictures that are fitted into the input whole (the sources voc, coco, yolo, masks, coco_masks)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.normalisation import Normalise
from deploy.processing.pictures import upright
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, Window, sides
from deploy.processing.preprocessing.pixels import TAKES, as_inputs, input_faults, normalise_from, opened
from deploy.processing.resizing import RESIZE, fit, fitted

KINDS = {"bilinear, antialiased": True, "bilinear": False}


@final
@dataclass(frozen=True, kw_only=True)
class Fitted(Preprocessing):
    """A whole picture.

    Attributes:
        size: height and width of the input.
        takes_bytes: whether the model normalises itself.
        resize: "plain" (each side on its own) or "letterbox" (in proportion, grey around).
        antialias: whether shrinking averages over all pixels that fall into one.
    """

    takes = TAKES
    size: tuple[int, int]
    resize: str
    antialias: bool
    normalise: Normalise
    takes_bytes: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Fitted:
        if data["resize"] not in RESIZE:
            raise ValueError(f"resize {data['resize']!r}")
        antialias, normalise = KINDS[data["interpolation"]], normalise_from(data)
        settings = {"resize": data["resize"], "antialias": antialias, "takes_bytes": bool(data.get("bytes"))}
        return cls(size=sides(data), normalise=normalise, **settings)

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        channels = self.normalise.channels
        with opened(raw) as picture:
            image = upright(picture, channels)
            pixels = fitted(image, self.size, channels, self.resize, antialias=self.antialias)
        across, down, left, top = fit(self.size, self.resize, *image.size)
        window = Window(picture=image.size, size=self.size, scale=(across, down), offset=(left, top))
        return Prepared(
            inputs=as_inputs(np.moveaxis(pixels, 2, 0), self.normalise, takes_bytes=self.takes_bytes), window=window
        )

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return input_faults(inputs, self.size, self.normalise, takes_bytes=self.takes_bytes)
