"""Sequences for a model with states: samples of steps, and each step as a sample of its own with the states before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data.base import Batch, Indices, NamedSamples, Samples
from deploy.engines.inputs import Inputs, Sequences, by_name
from deploy.engines.serving import Serving, walk

CHUNK = 64
MOST_BYTES = 1 << 28
"""Of all steps that are kept; of longer data every second step, third, and so on."""


@final
class SequenceSamples(Samples):
    """Samples whose inputs are sequences (samples, steps, ...), marked as such.

    Args:
        name: of the input, where the samples have one without a name.
    """

    def __init__(self, samples: Samples, serving: Serving, name: str) -> None:
        self._samples, self._serving, self._name, self.classes = samples, serving, name, samples.classes

    def __len__(self) -> int:
        return len(self._samples)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        batch = self._samples.load(indices, augment)
        given = batch.inputs if isinstance(batch.inputs, dict) else {self._name: batch.inputs}
        return Batch(Sequences(given, self._serving.states, self._serving.every), batch.targets)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._samples.fingerprint()} {self._serving}".encode()).hexdigest()


def steps_of(samples: Samples, serving: Serving, run: Callable[[dict[str, Any]], list[npt.NDArray[Any]]]) -> NamedSamples:
    """Walk whole sequences, and return each step as a sample: its inputs, and the states before it.

    Args:
        samples: sequences.
        run: gives all outputs of a model for one step, states among the inputs.
    """
    parts: list[dict[str, npt.NDArray[Any]]] = []
    labels: list[npt.NDArray[Any]] = []

    for batch in samples.batches(CHUNK):
        number = 0

        def step(feed: dict[str, Any], targets: npt.NDArray[Any] = batch.targets) -> list[npt.NDArray[Any]]:
            nonlocal number
            parts.append(feed)
            labels.append(targets[:, number] if serving.every else targets)
            number += 1
            return run(feed)

        walk(serving.states, dict(batch.inputs), step)
    stride = 1 + sum(array.nbytes for part in parts for array in part.values()) // MOST_BYTES
    kept = parts[::stride]
    arrays = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return NamedSamples(arrays, np.concatenate(labels[::stride]), samples.classes)


def first_step(inputs: Inputs, serving: Serving, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return the first step of sequences with states of noise, so that what reads a state shows."""
    random, given = np.random.default_rng(seed), by_name(inputs)
    count = len(next(iter(given.values())))
    states = {
        state.name: (random.normal(0, 0.5, (count, *state.shape))).astype(np.dtype(state.dtype)) for state in serving.states
    }
    return {**{name: array[:, 0] for name, array in given.items()}, **states}
