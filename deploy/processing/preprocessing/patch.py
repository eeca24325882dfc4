"""Pictures of any size, for models that restore or measure each pixel (the source pairs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.processing.normalisation import Normalise, normalise_shares
from deploy.processing.pictures import upright
from deploy.processing.preprocessing.base import Box, Prepared, Preprocessing, Window, sides, unlike
from deploy.processing.preprocessing.pixels import TAKES, normalise_from, opened

WHITE = 255.0


@final
@dataclass(frozen=True, kw_only=True)
class Patch(Preprocessing):
    """A whole picture at its own size, for an engine of inputs of ``size`` (height, width)."""

    takes, any_size = TAKES, True
    size: tuple[int, int]
    normalise: Normalise

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Patch:
        return cls(size=sides(data), normalise=normalise_from(data))

    def __call__(self, raw: Any, box: Box | None = None) -> Prepared:
        channels = self.normalise.channels
        with opened(raw) as picture:
            pixels = np.asarray(upright(picture, channels), np.float32)
        shares = pixels.reshape(*pixels.shape[:2], channels) / np.float32(WHITE)
        inputs = normalise_shares(np.moveaxis(shares, 2, 0)[None], self.normalise)
        size = (pixels.shape[0], pixels.shape[1])
        return Prepared(inputs=inputs, window=Window(picture=size[::-1], size=size, scale=(1.0, 1.0), offset=(0.0, 0.0)))

    def faults(self, inputs: Mapping[str, tuple[int, ...]]) -> list[str]:
        return unlike(inputs, (self.normalise.channels, *self.size))
