"""How samples reach a model: engines of several sizes, and states that are fed back. Kept beside an engine as serving.json.

A size is that of an axis along which samples differ (tokens, sound). Engines are built for fixed sizes; a sample goes to
the smallest that holds it, filled up to that. A state is an input that takes what an output gave at the step before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, final

import numpy as np

from deploy.engines.inputs import Array, Inputs, Sequences, by_name, count, rows
from deploy.files import write_atomically

FILE = "serving.json"
MOST_BYTES = 1 << 16


@final
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a free axis, an engine each.

    Attributes:
        name: as the recipe calls it.
        sizes: the smallest first.
        axes: of each input that has it; the samples' own axis is 0. A single input is called ``input``.
        mask: the input that is 0 behind the end of a sample; empty where there is none, and a sample ends at the last value
            that does not only fill up.
        fill: what fills up an input; 0 for those not named.
        outputs: the axis of each output, in their order; 0 for outputs without it.
    """

    name: str
    sizes: tuple[int, ...]
    axes: Mapping[str, int]
    mask: str = ""
    fill: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()

    @property
    def largest(self) -> int:
        """Return the largest size."""
        return self.sizes[-1]

    def width(self, inputs: Inputs) -> int:
        """Return the size that inputs have."""
        name, axis = next(iter(self.axes.items()))
        return int(_named(inputs, name).shape[axis])

    def lengths(self, inputs: Inputs) -> Array:
        """Return where each sample ends: its mask, or the last value that does not only fill up; at least 1.

        Example:
            >>> sizes = Sizes(name="length", sizes=(4,), axes={"ids": 1, "mask": 1}, mask="mask")
            >>> sizes.lengths({"ids": np.zeros((2, 4), int), "mask": np.array([[1, 1, 0, 0], [1, 1, 1, 1]])}).tolist()
            [2, 4]
        """
        named = {self.mask: self.axes[self.mask]} if self.mask else self.axes
        ends = np.ones(count(inputs), np.int64)
        for name, axis in named.items():
            array = np.moveaxis(_named(inputs, name), axis, 1)
            holds = (array != (0 if self.mask else self.fill.get(name, 0))).reshape(*array.shape[:2], -1).any(axis=2)
            last = np.where(holds.any(axis=1), array.shape[1] - holds[:, ::-1].argmax(axis=1), 1)
            ends = np.maximum(ends, last)
        return ends

    def fitting(self, inputs: Inputs) -> Array:
        """Return the size that each sample goes to: the smallest that holds it.

        Raises:
            ValueError: a sample is longer than the largest.
        """
        lengths = self.lengths(inputs)
        if lengths.max(initial=0) > self.largest:
            raise ValueError(f"a sample has {self.name} {lengths.max()}; the largest size with an engine is {self.largest}")
        chosen: Array = np.asarray(self.sizes)[np.searchsorted(self.sizes, lengths)]
        return chosen

    def at(self, inputs: Inputs, size: int) -> Any:
        """Return inputs of a size: cut, or filled up."""

        def resized(name: str, array: Array) -> Array:
            return fitted(array, self.axes[name], size, self.fill.get(name, 0)) if name in self.axes else array

        if isinstance(inputs, Mapping):
            return {name: resized(name, array) for name, array in inputs.items()}
        return resized(next(iter(self.axes)), inputs)

    def route(self, inputs: Inputs, run: Callable[[int, Any], Sequence[Array]]) -> list[Array]:
        """Run each sample at the smallest size that holds it; outputs are as of the inputs' own size.

        Args:
            run: gives outputs for a size and inputs of it.
        """
        chosen, width = self.fitting(inputs), self.width(inputs)
        whole: list[Array] = []
        for size in np.unique(chosen):
            places = np.flatnonzero(chosen == size)
            found = run(int(size), self.at(rows(inputs, places), int(size)))
            axes = [*self.outputs, *[0] * len(found)]
            if any(axis >= max(np.ndim(each), 1) for each, axis in zip(found, axes, strict=False)):
                raise ValueError(f"axes of {self.name} in the outputs are {self.outputs}, which the model's do not have")
            parts = [fitted(each, axis, width) if axis else each for each, axis in zip(found, axes, strict=False)]
            whole = whole or [np.zeros((count(inputs), *part.shape[1:]), part.dtype) for part in parts]
            for array, part in zip(whole, parts, strict=True):
                array[places] = part
        return whole


@final
@dataclass(frozen=True, kw_only=True)
class State:
    """Input that takes what an output gave at the step before; zeros at the first.

    Attributes:
        name: of the input.
        output: its place among the model's outputs.
        shape: of one sample.
        dtype: by numpy's name.
    """

    name: str
    output: int
    shape: tuple[int, ...]
    dtype: str = "float32"

    def zeros(self, samples: int) -> Array:
        """Return the state before the first step."""
        return np.zeros((samples, *self.shape), np.dtype(self.dtype))


@final
@dataclass(frozen=True, kw_only=True)
class Serving:
    """Sizes and states of a model, either or none.

    Attributes:
        every: whether the outputs of every step count, or those of the last.
    """

    sizes: Sizes | None = None
    states: tuple[State, ...] = ()
    every: bool = True

    @property
    def state_names(self) -> frozenset[str]:
        """Return the names of the inputs that are states."""
        return frozenset(state.name for state in self.states)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Serving:
        """Restore it from ``as_json``; what comes from elsewhere may hold anything.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(data, Mapping) or set(data) - {each.name for each in fields(cls)}:
            raise ValueError("it has other keys")
        given, states = data.get("sizes"), data.get("states", ())
        try:
            lists = {} if given is None else {key: tuple(given[key]) for key in ("sizes", "outputs")}
            sizes = None if given is None else Sizes(**{**given, **lists})
            found = tuple(State(**{**each, "shape": tuple(each["shape"])}) for each in states)
        except (TypeError, KeyError):
            raise ValueError("it lacks keys, or has others") from None
        serving = cls(sizes=sizes, states=found, every=data.get("every", True) is True)
        if sizes is not None and not _is_sound(sizes):
            raise ValueError("sizes are whole numbers that grow, axes those of named inputs")
        if any(not _is_state(state) for state in found):
            raise ValueError("a state is a named input, the place of an output and a shape")
        return serving


NOTHING = Serving()
"""Of a model with one size and no state."""


def part(size: int) -> str:
    """Name the folder of the engine of a smaller size, below that of the largest."""
    return f"size-{size}"


def save(folder: Path, serving: Serving) -> None:
    """Write it beside an engine; nothing where there is nothing to say."""
    if serving != NOTHING:
        write_atomically(folder / FILE, json.dumps(serving.as_json(), sort_keys=True, indent=1).encode())


def load(folder: Path) -> Serving:
    """Read how samples reach the engine in a folder; one of one size without states has no file.

    Raises:
        ValueError: the file is another.
    """
    file = folder / FILE
    if not file.is_file():
        return NOTHING
    try:
        with file.open("rb") as stream:
            return Serving.from_json(json.loads(stream.read(MOST_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{FILE} is damaged: {str(error).splitlines()[0][:200]}") from None


def walk(states: Sequence[State], inputs: Inputs, run: Callable[[dict[str, Array]], Sequence[Array]]) -> list[Array]:
    """Walk sequences (samples, steps, ...) step by step; return the outputs that are no state, (samples, steps, ...).

    Args:
        run: gives all outputs of one step, by place.

    Raises:
        ValueError: a state came back in another shape.
    """
    given = by_name(inputs)
    fed = {state.name: state.zeros(count(inputs)) for state in states}
    taken, kept = {state.output for state in states}, []
    for step in range(next(iter(given.values())).shape[1]):
        outputs = run({**{name: array[:, step] for name, array in given.items()}, **fed})
        for state in states:
            now = outputs[state.output] if state.output < len(outputs) else np.zeros(0)
            if now.shape != (before := fed[state.name].shape):
                raise ValueError(f"state {state.name} is {before}, and comes back as {now.shape} at step {step}")
            fed[state.name] = now
        kept.append([output for place, output in enumerate(outputs) if place not in taken])
    return [np.stack(each, axis=1) for each in zip(*kept, strict=True)]


def as_sequences(inputs: Inputs, serving: Serving) -> Sequences:
    """Mark inputs (samples, steps, ...) as sequences that a model with states walks."""
    return Sequences(by_name(inputs), serving.states, serving.every)


def fitted(array: Array, axis: int, size: int, fill: float = 0) -> Array:
    """Cut an axis to ``size``, or fill it up.

    Example:
        >>> fitted(np.array([[1, 2, 3]]), 1, 2).tolist(), fitted(np.array([[1, 2]]), 1, 3, 9).tolist()
        ([[1, 2]], [[1, 2, 9]])
    """
    if array.shape[axis] >= size:
        return np.take(array, np.arange(size), axis) if array.shape[axis] > size else array
    wanted = list(array.shape)
    wanted[axis] = size - array.shape[axis]
    return np.concatenate([array, np.full(wanted, fill, array.dtype)], axis)


def _named(inputs: Inputs, name: str) -> Array:
    return inputs[name] if isinstance(inputs, Mapping) else inputs


def _is_sound(sizes: Sizes) -> bool:
    def whole(value: object, least: int) -> bool:
        return type(value) is int and least <= value < 1 << 31

    grows = all(whole(size, 1) for size in sizes.sizes) and list(sizes.sizes) == sorted(set(sizes.sizes)) != []
    named = isinstance(sizes.axes, Mapping) and bool(sizes.axes) and all(whole(axis, 1) for axis in sizes.axes.values())
    filled = isinstance(sizes.fill, Mapping) and all(type(value) in (int, float) for value in sizes.fill.values())
    words = isinstance(sizes.name, str) and isinstance(sizes.mask, str)
    masked = words and (not sizes.mask or sizes.mask in sizes.axes)
    return grows and named and filled and masked and all(whole(axis, 0) for axis in sizes.outputs)


def _is_state(state: State) -> bool:
    numbers = (state.output, *state.shape)
    is_named = isinstance(state.name, str) and state.dtype in ("float32", "float16", "int32", "int64", "bool")
    return is_named and all(type(number) is int and 0 <= number < 1 << 31 for number in numbers)
