"""Bytes of images to the numbers that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from profiles.errors import UserError

Bytes = npt.NDArray[np.uint8]
ORDERS = ("rgb", "bgr")


@final
@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Normalisation of bytes: (byte * scale / 255 - mean) / deviation, channel by channel.

    Attributes:
        mean, deviation: a value for each of the model's channels, 3 or 1 for grey, in their order; white is ``scale``.
        order: of the model's channels, "rgb" or "bgr"; images are held as rgb.
        scale: what white is before the mean is taken off: 1, or 255 for models of Caffe's kind.

    Raises:
        UserError: any of them is not of that kind.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    order: str = "rgb"
    scale: float = 1.0

    def __post_init__(self) -> None:
        faults: list[str] = []
        if len(self.mean) != len(self.deviation) or len(self.mean) not in (1, 3):
            given = f"{len(self.mean)} and {len(self.deviation)}"
            faults.append(f"data: mean and deviation have a value for each channel, 3 or 1 for grey; given: {given} values")
        if not all(math.isfinite(value) for value in self.mean):
            faults.append(f"data: mean is made of finite numbers; given: {list(self.mean)}")
        elif any(value > self.scale for value in self.mean) and self.scale > 0:
            words = f"mean is at most what white is, {self.scale:g} (scale); for means up to 255 say scale = 255"
            faults.append(f"data: {words}; given: {list(self.mean)}")
        if not all(math.isfinite(value) and value > 0 for value in self.deviation):
            faults.append(f"data: deviation is made of numbers above 0; given: {list(self.deviation)}")
        if self.order not in ORDERS:
            faults.append(f"data: order is one of {', '.join(ORDERS)}; given: {self.order!r}")
        if not 0 < self.scale < math.inf:
            faults.append(f"data: scale is what white is, 1 or 255; given: {self.scale!r}")
        if faults:
            raise UserError(*faults)

    @property
    def channels(self) -> int:
        """Number of channels, 3 or 1."""
        return len(self.mean)

    def factors(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return f and o of each of the model's channels: a byte becomes byte * f - o."""
        deviation = np.array(self.deviation)
        factor = (self.scale / 255 / deviation).astype(np.float32)
        return factor, (np.array(self.mean) / deviation).astype(np.float32)

    def __call__(self, images: Bytes) -> npt.NDArray[np.float32]:
        """Float32 of the same shape (..., C, H, W)."""
        factor, offset = (each.reshape(-1, 1, 1) for each in self.factors())
        ordered = images[..., ::-1, :, :] if self.order == "bgr" else images
        result: npt.NDArray[np.float32] = np.multiply(ordered, factor, dtype=np.float32, order="C")
        result -= offset
        return result

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of ``Splits.preprocessing``."""
        order = self.order if self.channels == 3 else "grey"
        return {"mean": list(self.mean), "deviation": list(self.deviation), "order": order, "scale": self.scale}


def normalise_shares(images: npt.NDArray[np.float32], normalise: Normalise) -> npt.NDArray[np.float32]:
    """Normalise images (samples, channels, height, width) whose white is 1, as ``Normalise`` does bytes."""
    ordered = images[:, ::-1] if normalise.order == "bgr" else images
    mean, deviation = (np.array(each, np.float32).reshape(-1, 1, 1) for each in (normalise.mean, normalise.deviation))
    result = (ordered * np.float32(normalise.scale) - mean) / deviation
    return np.ascontiguousarray(result, dtype=np.float32)
