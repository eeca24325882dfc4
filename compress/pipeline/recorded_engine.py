"""An engine on the device as a function of arrays, whose first inputs and outputs are kept."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.execution.progress import Bar
from deploy.worker.client import RemoteWorker

PARITY_SAMPLES = 512


@final
class RecordedEngine:
    """An engine as a function of arrays; keeps the first ``PARITY_SAMPLES`` samples and its first output for them."""

    def __init__(self, worker: RemoteWorker, name: str, bar: Bar) -> None:
        self._worker, self._name, self._bar = worker, name, bar
        self._inputs: list[npt.NDArray[Any]] = []
        self._outputs: list[npt.NDArray[Any]] = []

    def __call__(self, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        outputs = list(self._worker.infer({self._name: inputs}).values())
        if sum(len(kept) for kept in self._inputs) < PARITY_SAMPLES:
            self._inputs.append(inputs)
            self._outputs.append(outputs[0])
        self._bar.advance(len(inputs))
        return outputs

    @property
    def inputs(self) -> npt.NDArray[Any]:
        """Return the kept samples, of shape (samples, ...)."""
        return np.concatenate(self._inputs)

    @property
    def outputs(self) -> npt.NDArray[Any]:
        """Return the engine's first output for them."""
        return np.concatenate(self._outputs)
