"""Inputs of a model: an array of samples, or several arrays by the names of the model's inputs.

A model with one input is given one array, (samples, ...). A model with several is given a table of them, each with as many
samples, and is called by name: ``model(input_ids=..., attention_mask=...)``. Floats are values, which have ranges and
gradients; integers and booleans are ids and masks, which have neither and are never quantised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs = Array | Mapping[str, Array]
ONE = "input"
"""Name of the only input of a model, where it needs one: in an ONNX file, in a bundle."""


def numbered(stem: str, index: int) -> str:
    """Return the name of the input or output at ``index`` of a program that names none: ``input``, ``input_1`` ...

    So they are called in the ONNX file; files of other formats keep no names, or have others of their own.
    """
    return stem if index == 0 else f"{stem}_{index}"


@final
class Sequences(dict[str, Any]):
    """Sequences by the names of a model's inputs, (samples, steps, ...): a model with states walks them step by step.

    Attributes:
        states: what is fed back (``deploy.engines.serving.State``).
        every: whether the outputs of every step count, or those of the last.
    """

    def __init__(self, arrays: Mapping[str, Any], states: Sequence[Any], every: bool) -> None:
        super().__init__(arrays)
        self.states, self.every = tuple(states), every

    def holding(self, arrays: Mapping[str, Any]) -> Sequences:
        """Return sequences of other values, walked alike."""
        return Sequences(arrays, self.states, self.every)


def table_like(inputs: Mapping[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Return a table of other values, of sequences where ``inputs`` are such."""
    return inputs.holding(arrays) if isinstance(inputs, Sequences) else arrays


def by_name(inputs: Inputs) -> dict[str, Array]:
    """Return inputs by name; a single one is called ``input``."""
    return dict(inputs) if isinstance(inputs, Mapping) else {ONE: inputs}


def map_arrays(function: Callable[[Array], Any], inputs: Inputs) -> Any:
    """Apply a function to each array; a table gives a table."""
    if isinstance(inputs, Mapping):
        return table_like(inputs, {name: function(array) for name, array in inputs.items()})
    return function(inputs)


def count(inputs: Inputs) -> int:
    """Return the number of samples.

    Example:
        >>> count({"ids": np.zeros((3, 8), int), "mask": np.ones((3, 8), bool)})
        3
    """
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def rows(inputs: Inputs, chosen: slice | npt.NDArray[Any]) -> Any:
    """Return the chosen samples."""
    return map_arrays(lambda array: array[chosen], inputs)


def join(parts: Sequence[Inputs]) -> Any:
    """Concatenate the samples of several inputs of the same names."""
    if isinstance(parts[0], Mapping):
        whole = {name: np.concatenate([by_name(part)[name] for part in parts]) for name in parts[0]}
        return table_like(parts[0], whole)
    return np.concatenate([np.asarray(part) for part in parts])


def sample_shapes(inputs: Inputs) -> Any:
    """Return the shape of a sample: a tuple, or one for each name."""
    return map_arrays(lambda array: tuple(array.shape[1:]), inputs)


def describe(inputs: Inputs) -> str:
    """Word the shape of a sample for a message.

    Example:
        >>> describe({"ids": np.zeros((3, 8), np.int64), "left": np.zeros((3, 2), np.float32)})
        'ids int64 (8,), left float32 (2,)'
    """
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {array.dtype} {tuple(array.shape[1:])}" for name, array in inputs.items())
    return str(tuple(inputs.shape[1:]))


def not_finite(inputs: Inputs) -> list[int]:
    """Return the samples that hold NaN or infinity."""
    bad: set[int] = set()
    for array in by_name(inputs).values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad |= {int(row) for row in np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))}
    return sorted(bad)


def digest(inputs: Inputs) -> str:
    """Return the SHA-256 of the arrays, their names, types and shapes."""
    found = hashlib.sha256()
    for name, array in by_name(inputs).items():
        found.update(repr((name, array.shape, str(array.dtype))).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def input_names(opened: Mapping[str, Any]) -> list[str]:
    """Return the names of an engine's inputs, of what a worker says when it opens it."""
    return [spec["name"] for spec in opened["inputs"]]


def image(inputs: Inputs) -> Array | None:
    """Return images, (samples, channels, height, width), where the inputs are these alone."""
    return inputs if not isinstance(inputs, Mapping) and inputs.ndim == 4 else None


def as_feed(inputs: Inputs, names: Sequence[str]) -> dict[str, Array]:
    """Return the arrays under a model's names: the only one under its only name, others under their own.

    Raises:
        ValueError: the model has other inputs.
    """
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise ValueError(f"the model has inputs {', '.join(names)}; one array without a name is given")
        return {names[0]: inputs}
    missing, extra = [name for name in names if name not in inputs], [name for name in inputs if name not in names]
    if missing or extra:
        words = [f"the model needs {', '.join(missing)}"] if missing else []
        words += [f"it does not take {', '.join(extra)}"] if extra else []
        raise ValueError(f"{'; '.join(words)}; given: {', '.join(inputs)}; the model's inputs: {', '.join(names)}")
    return {name: inputs[name] for name in names}


def pad_batch(samples: Any, batch: int) -> Any:
    """Pad ``samples`` to ``batch`` with copies of the last; shape (at least batch, ...)."""
    missing = batch - len(samples)
    return np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)]) if missing > 0 else samples


def padded(inputs: Inputs, start: int, batch: int) -> Any:
    """Return a batch of samples from ``start`` on, filled up with copies of the last."""
    return map_arrays(lambda array: pad_batch(array[start : start + batch], batch), inputs)
