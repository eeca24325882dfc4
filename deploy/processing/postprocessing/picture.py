"""Restoration: a picture of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Picture(Postprocessing):
    """Values (1, channels, height, width) of which white is 1, as bytes."""

    gives = "picture (uint8, (height, width, channels); Pillow's Image.fromarray takes three of these)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        values = np.asarray(outputs[0], np.float32)
        if values.ndim != 4 or values.shape[0] != 1:
            raise ValueError(f"the model gives {values.shape} for one sample, which is no picture")
        return {"picture": np.round(255 * np.moveaxis(values[0], 0, 2).clip(0, 1)).astype(np.uint8)}
