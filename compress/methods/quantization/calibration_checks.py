"""Checks of calibration samples: errors all at once, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data import Samples
from compress.models.inputs import InputShape, InputShapes
from deploy.engines.inputs import ONE, Inputs, by_name, not_finite
from profiles.errors import UserError

LOOKED_AT = 256
LARGEST_NORMAL = 20.0
"""Standard deviations that a normalised input does not leave; 0 .. 255 does."""


def check_calibration(samples: Samples, shapes: InputShapes) -> tuple[str, ...]:
    """Check calibration samples for a model that takes samples of ``shapes`` (0: any size); return warnings.

    Raises:
        UserError: there are none, or they are of another shape or type, or not finite; all that is wrong.
    """
    if len(samples) == 0:
        raise UserError("calibration: there are no samples; ranges need one at least, and some hundred to be good")
    batch = samples.load(np.arange(min(LOOKED_AT, len(samples))))
    faults = _misfits(batch.inputs, shapes)
    if not faults and (bad := not_finite(batch.inputs)):
        indices = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        faults.append(f"calibration: NaN or infinity in {len(bad)} samples ({indices}); remove them")
    if faults:
        raise UserError(*faults)
    values = [array for array in by_name(batch.inputs).values() if array.dtype.kind == "f"]
    named = not isinstance(batch.inputs, Mapping)
    return (*(_doubts(values[0]) if named else ()), *_doubts_of_targets(np.asarray(batch.targets)))


def _misfits(inputs: Inputs, shapes: InputShapes) -> list[str]:
    """Say where samples are of another shape or type than the model takes."""
    if isinstance(inputs, Mapping) or isinstance(shapes, Mapping):
        only = next(iter(inputs)) if isinstance(inputs, Mapping) and len(inputs) == 1 else ONE
        wanted = shapes if isinstance(shapes, Mapping) else {only: InputShape(shapes, "float32")}
        given = by_name(inputs) if isinstance(inputs, Mapping) or len(wanted) > 1 else {next(iter(wanted)): inputs}
        if set(given) != set(wanted):
            return [f"calibration: the samples have {', '.join(given)}; the model takes {', '.join(wanted)}"]
        return [
            fault
            for name, each in wanted.items()
            for fault in _misfit(given[name], each, f"input {name}" if len(wanted) > 1 else "")
        ]
    return _misfit(inputs, InputShape(shapes, "float32"), "")


def _misfit(array: npt.NDArray[Any], wanted: InputShape, name: str) -> list[str]:
    whose = f"calibration: {name}: " if name else "calibration: "
    faults: list[str] = []
    shape = wanted.shape
    if array.ndim != len(shape) + 1 or any(s not in (0, g) for g, s in zip(array.shape[1:], shape, strict=True)):
        faults.append(f"{whose}the samples are of shape {array.shape[1:]}; the model takes {shape}")
    if wanted.dtype == "float32" and array.dtype.kind != "f":
        faults.append(f"{whose}the samples are {array.dtype}; the model takes float32, normalised as in training")
    elif wanted.dtype != "float32" and array.dtype != wanted.dtype:
        faults.append(f"{whose}the samples are {array.dtype}; the model takes {wanted.dtype}")
    return faults


def _doubts(inputs: npt.NDArray[Any]) -> tuple[str, ...]:
    doubts: list[str] = []
    largest = float(np.abs(inputs).max())
    if inputs.min() >= 0 and largest > LARGEST_NORMAL:
        doubts.append(f"calibration: the inputs go from {inputs.min():g} to {largest:g}: they look unnormalised")
    elif float(inputs.std()) == 0:
        doubts.append("calibration: every input is the same number; ranges from them say nothing")
    return tuple(doubts)


def _doubts_of_targets(targets: npt.NDArray[Any]) -> tuple[str, ...]:
    classes = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if classes and len(targets) > 1 and targets[0] >= 0 and (targets == targets[0]).all():
        return (f"calibration: all samples are of class {targets[0]}; the other classes' ranges are not seen",)
    return ()
