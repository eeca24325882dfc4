"""Restoration of numbers (depth, heat): a value for each pixel, in the targets' unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from deploy.processing.postprocessing.base import Answer, Array, Postprocessing
from deploy.processing.preprocessing.base import Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Values(Postprocessing):
    """Values (1, channels, height, width) as they are."""

    gives = "values (float32, (channels, height, width), in the targets' unit)"

    def __call__(self, outputs: Sequence[Array], prepared: Prepared) -> Answer:
        values = np.asarray(outputs[0], np.float32)
        if values.ndim != 4 or values.shape[0] != 1:
            raise ValueError(f"the model gives {values.shape} for one sample; values are (1, channels, height, width)")
        return {"values": values[0]}
