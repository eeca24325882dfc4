"""Weights as integers: the one rounding that makes them, which a device repeats when it decodes packed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def quantize_weight(weight: npt.NDArray[Any], scale: npt.NDArray[np.float32], axis: int, limit: int) -> npt.NDArray[np.int8]:
    """Integers of ``weight`` under a scale per channel along ``axis``; same shape."""
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return np.asarray(np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit), np.int8)
