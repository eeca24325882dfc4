"""Engines of one model as one: any number of samples, each at the smallest size that holds it, sequences step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.engines import engine
from deploy.engines.base import BuildPlan, EngineError, Session, TensorSpec, load_plan
from deploy.engines.inputs import ONE, Array, Inputs, as_feed, by_name, count, padded
from deploy.engines.serving import FILE, NOTHING, Serving, load, part, walk


@final
class Served:
    """Opened engines of a model.

    Args:
        sessions: by size; the largest alone where the model has one size, under any number.
        serving: how samples reach them.

    Attributes:
        inputs: those of the largest engine that are no states.
    """

    def __init__(self, sessions: Mapping[int, Session], serving: Serving = NOTHING) -> None:
        self.sessions, self.serving = dict(sessions), serving
        self.session = sessions[max(sessions)]
        self.inputs: tuple[TensorSpec, ...] = tuple(s for s in self.session.inputs if s.name not in serving.state_names)
        self._fed: dict[str, Array] = {}
        self._outputs: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the names of the inputs."""
        return [spec.name for spec in self.inputs]

    def infer(self, inputs: Inputs, *, every: bool | None = None) -> dict[str, Array]:
        """Return outputs by name for samples (samples, ...), or for whole sequences (samples, steps, ...).

        Args:
            every: whether outputs of every step are given, (samples, steps, ...), or those of the last; as the model's
                ``serving`` says without it.

        Raises:
            ValueError: other inputs, a sample that no size holds, or a state that came back in another shape.
        """
        feed, sizes = as_feed(inputs, self.names), self.serving.sizes
        if self.serving.states:
            found = walk(self.serving.states, feed, lambda step: list(self._batches(self.session, step).values()))
            whole = self.serving.every if every is None else every
            return dict(zip(self._own_outputs(), found if whole else [output[:, -1] for output in found], strict=True))
        if sizes is None:
            return self._batches(self.session, feed)
        single = sizes.axes.keys() == {"input"} and "input" not in feed
        given: Inputs = next(iter(feed.values())) if single else feed

        def run(size: int, taken: Any) -> list[Array]:
            outputs = self._batches(self.sessions[size], as_feed(taken, self.names))
            self._outputs = tuple(outputs)
            return [*outputs.values()]

        found = sizes.route(given, run)
        return dict(zip(self._outputs, found, strict=True))

    def step(self, inputs: Inputs) -> dict[str, Array]:
        """Take one step from where the last ended; inputs of shape (batch, ...), outputs that are no state.

        Example: ``served.reset()`` before a recording, then ``served.step(chunk)`` for each chunk of it.
        """
        if not self._fed:
            self.reset()
        outputs = self.session.infer({**as_feed(inputs, self.names), **self._fed})
        values = [*outputs.values()]
        self._fed = {state.name: values[state.output] for state in self.serving.states}
        taken = {state.output for state in self.serving.states}
        return {name: value for place, (name, value) in enumerate(outputs.items()) if place not in taken}

    def reset(self) -> None:
        """Begin a new sequence: all states are zeros."""
        self._fed = {state.name: state.zeros(self.session.inputs[0].shape[0]) for state in self.serving.states}

    def first(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return a first batch as the largest engine takes it: the first step of sequences, states of zeros."""
        batch, sizes = self.session.inputs[0].shape[0], self.serving.sizes
        feed: dict[str, Array] = padded(inputs, 0, batch)
        if self.serving.states:
            zeros = {state.name: state.zeros(batch) for state in self.serving.states}
            return {**{name: array[:, 0] for name, array in feed.items()}, **zeros}
        return feed if sizes is None else {s.name: _cut(feed[s.name], s.shape) for s in self.inputs}

    def _own_outputs(self) -> list[str]:
        taken = {state.output for state in self.serving.states}
        return [name for place, name in enumerate(self._outputs) if place not in taken]

    def _batches(self, session: Session, feed: Mapping[str, Array]) -> dict[str, Array]:
        batch, samples = session.inputs[0].shape[0], count(feed)
        parts: dict[str, list[Array]] = {}
        for start in range(0, samples, batch):
            for name, value in session.infer(padded(feed, start, batch)).items():
                parts.setdefault(name, []).append(value[: samples - start])
        self._outputs = tuple(parts)
        return {name: np.concatenate(values) for name, values in parts.items()}


def open_served(folder: str | os.PathLike[str], plan: BuildPlan | None = None) -> Served:
    """Open the engine in a folder, those of smaller sizes below it, and how samples reach them.

    Args:
        plan: that it was built by; read from the folder without one.

    Raises:
        EngineError: a runtime refused it, or serving.json is damaged.
    """
    folder = Path(folder)
    plan = plan or load_plan(folder)
    try:
        serving = load(folder)
    except ValueError as error:
        raise EngineError(f"{folder}: {error}; build the engine again") from None
    runtime, sizes = engine(plan.engine), serving.sizes
    if sizes is None:
        return Served(_fitting(folder, {0: runtime.open(folder, plan)}, serving), serving)
    opened = {size: runtime.open(folder / part(size), plan) for size in sizes.sizes[:-1]}
    return Served(_fitting(folder, {**opened, sizes.largest: runtime.open(folder, plan)}, serving), serving)


def run(session: Session | Served, inputs: Inputs, *, every: bool | None = None) -> list[Array]:
    """Return outputs in the model's order for samples (samples, ...), or several inputs by name, batch by batch."""
    served = session if isinstance(session, Served) else Served({0: session})
    return [*served.infer(by_name(inputs) if isinstance(inputs, Mapping) else inputs, every=every).values()]


def _fitting(folder: Path, sessions: dict[int, Session], serving: Serving) -> dict[int, Session]:
    """Return the opened engines, whose inputs have the states and sizes that serving.json tells.

    Raises:
        EngineError: they have others.
    """
    axes = {} if serving.sizes is None else serving.sizes.axes
    for size, session in sessions.items():
        shapes = {spec.name: spec.shape for spec in session.inputs}
        told = {next(iter(shapes)): axes[ONE]} if len(shapes) == 1 and axes.keys() == {ONE} else axes
        faults = [f"state {s.name} {s.shape}" for s in serving.states if shapes.get(s.name, ())[1:] != s.shape]
        faults += [
            f"{n} of {size} in axis {axis}" for n, axis in told.items() if shapes.get(n, ())[axis : axis + 1] != (size,)
        ]
        if faults:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise EngineError(
                f"{folder}: {FILE} tells of {', '.join(faults)[:200]}; the engine takes {given}; build it again"
            )
    return sessions


def _cut(array: Array, shape: tuple[int, ...]) -> Array:
    return array[tuple(slice(size) for size in shape)]
