"""Checks of calibration samples: errors all at once, and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from profiles.errors import UserError

LOOKED_AT = 256
LARGEST_NORMAL = 20.0
"""Standard deviations that a normalised input does not leave; 0 .. 255 does."""


def check_calibration(samples: Samples, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Check calibration samples for a model that takes samples of ``shape`` (0: any size); return warnings.

    Raises:
        UserError: there are none, or they are of another shape or type, or not finite; all that is wrong.
    """
    if len(samples) == 0:
        raise UserError("calibration: there are no samples; ranges need one at least, and some hundred to be good")
    batch = samples.load(np.arange(min(LOOKED_AT, len(samples))))
    inputs = batch.inputs
    faults: list[str] = []
    fits = inputs.ndim == len(shape) + 1 and all(s in (0, g) for g, s in zip(inputs.shape[1:], shape, strict=True))
    if not fits:
        faults.append(f"calibration: the samples are of shape {inputs.shape[1:]}; the model takes {shape}")
    if not np.issubdtype(inputs.dtype, np.floating):
        faults.append(f"calibration: the samples are {inputs.dtype}; the model takes float32, normalised as in training")
    elif not np.isfinite(inputs).all():
        bad = sorted({int(i) for i in np.argwhere(~np.isfinite(inputs))[:, 0]})
        indices = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        faults.append(f"calibration: NaN or infinity in {len(bad)} samples ({indices}); remove them")
    if faults:
        raise UserError(*faults)
    return _doubts(inputs, np.asarray(batch.targets))


def _doubts(inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[str, ...]:
    doubts: list[str] = []
    largest = float(np.abs(inputs).max())
    if inputs.min() >= 0 and largest > LARGEST_NORMAL:
        doubts.append(f"calibration: the inputs go from {inputs.min():g} to {largest:g}: they look unnormalised")
    elif float(inputs.std()) == 0:
        doubts.append("calibration: every input is the same number; ranges from them say nothing")
    classes = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if classes and len(targets) > 1 and targets[0] >= 0 and (targets == targets[0]).all():
        doubts.append(f"calibration: all samples are of class {targets[0]}; the other classes' ranges are not seen")
    return tuple(doubts)
