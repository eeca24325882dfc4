"""Histograms of a float model's tensors over calibration samples, taken in ONNX Runtime. Host only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from calib.ranges import Histogram
from deploy.engines.inputs import Inputs
from deploy.onnx_graph.run import run_batches, split_batches


def observe(
    model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Inputs], threads: int = 0
) -> dict[str, Histogram]:
    """Take a histogram of each tensor over all batches, a few samples in memory at a time.

    Args:
        model: a float model.
        tensors: names of inputs or intermediate tensors.
        batches: arrays of shape (samples, ...), or several by the names of the model's inputs.

    Raises:
        ValueError: a tensor held NaN or infinity; it is named.
    """
    names = list(dict.fromkeys(tensors))
    histograms = {name: Histogram() for name in names}
    for _, values in run_batches(model, names, split_batches(model, names, batches), threads):
        for name, histogram in histograms.items():
            _update(name, histogram, np.asarray(values[name]))
    return histograms


def _update(name: str, histogram: Histogram, values: npt.NDArray[Any]) -> None:
    try:
        histogram.update(values)
    except ValueError as error:
        raise ValueError(f"tensor {name}: {error}") from None
