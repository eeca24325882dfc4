"""Inputs of a module as tensors: one, or several by the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.models.layers import flat_tensors
from deploy.engines.inputs import Sequences, table_like
from deploy.engines.serving import Serving, State

DTYPES = ("float32", "int32", "int64", "bool")
ModelInputs = Tensor | dict[str, Tensor]
"""A tensor (samples, ...), or a table of them that ``forward`` takes by name."""


def call(module: Callable[..., Any], inputs: ModelInputs) -> Any:
    """Call a module with its inputs: one by place, several by name.

    Example:
        >>> call(lambda left, right: left + right, {"left": torch.ones(1), "right": torch.ones(1)})
        tensor([2.])
    """
    if isinstance(inputs, Sequences):
        return walk(module, inputs)
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def walk(module: Callable[..., Any], inputs: Sequences) -> Any:
    """Walk sequences (samples, steps, ...) with a module's states, from zeros.

    Returns:
        The outputs that are no state, one or a tuple of them: (samples, steps, ...), or (samples, ...) of the last step
        where the sequences ask for that alone.
    """
    steps = next(iter(inputs.values())).shape[1]
    fed = zero_states(module, {name: tensor[:, 0] for name, tensor in inputs.items()}, inputs.states)
    taken, kept = {state.output for state in inputs.states}, []
    for step in range(steps):
        outputs = flat_tensors(module(**{name: tensor[:, step] for name, tensor in inputs.items()}, **fed))
        fed = {state.name: outputs[state.output] for state in inputs.states}
        if inputs.every or step == steps - 1:
            kept.append([output for place, output in enumerate(outputs) if place not in taken])
    found = tuple(torch.stack(each, dim=1) if inputs.every else each[-1] for each in zip(*kept, strict=True))
    return found[0] if len(found) == 1 else found


def zero_states(module: Callable[..., Any], step: Mapping[str, Tensor], states: Sequence[State]) -> dict[str, Tensor]:
    """Return the states of a module before the first step: zeros.

    A module that may be called without states is asked for their shapes: a narrower student has its own.

    Args:
        step: the inputs of one step, (samples, ...).
    """
    samples, device = len(next(iter(step.values()))), next(iter(step.values())).device
    shapes = {state.name: (samples, *state.shape) for state in states}
    forward = getattr(module, "forward", module)
    parameters = inspect.signature(forward).parameters
    if all(name in parameters and parameters[name].default is not inspect.Parameter.empty for name in shapes):
        with torch.no_grad():
            outputs = flat_tensors(module(**step))
        shapes = {state.name: tuple(outputs[state.output].shape) for state in states}
    kinds = {state.name: getattr(torch, state.dtype) for state in states}
    return {name: torch.zeros(shape, dtype=kinds[name], device=device) for name, shape in shapes.items()}


def stated_example(module: nn.Module, example: ModelInputs, serving: Serving) -> ModelInputs:
    """Return an example of one step with states of the module's own shapes, where they are not those of ``example``."""
    if not serving.states or not isinstance(example, Mapping):
        return example
    step = {name: tensor for name, tensor in example.items() if name not in serving.state_names}
    own = zero_states(module.eval(), step, serving.states)
    noise = torch.Generator().manual_seed(0)
    changed = {
        name: torch.normal(0.0, 0.5, zeros.shape, generator=noise).to(zeros.dtype)
        for name, zeros in own.items()
        if zeros.shape != example[name].shape
    }
    return {**example, **changed}


def map_tensors(function: Callable[[Tensor], Any], inputs: ModelInputs) -> Any:
    """Apply a function to each tensor; a table gives a table."""
    if isinstance(inputs, Mapping):
        return table_like(inputs, {name: function(tensor) for name, tensor in inputs.items()})
    return function(inputs)


def as_tensors(inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]) -> Any:
    """Make tensors of arrays, without a copy."""
    if isinstance(inputs, Mapping):
        return table_like(inputs, {name: torch.from_numpy(array) for name, array in inputs.items()})
    return torch.from_numpy(inputs)


def as_arrays(inputs: ModelInputs) -> Any:
    """Make arrays of tensors."""
    return map_tensors(lambda tensor: tensor.detach().cpu().numpy(), inputs)


def tensors(inputs: ModelInputs) -> list[Tensor]:
    """Return the tensors, in the order of their names in the table."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def count(inputs: ModelInputs) -> int:
    """Return the number of samples."""
    return len(tensors(inputs)[0])


def rows(inputs: ModelInputs, chosen: slice) -> Any:
    """Return the chosen samples."""
    return map_tensors(lambda tensor: tensor[chosen], inputs)


def device_of(inputs: ModelInputs) -> torch.device:
    """Return where the tensors lie."""
    return tensors(inputs)[0].device


def doubled(inputs: ModelInputs) -> Any:
    """Return floats in double precision; ids and masks stay."""
    return map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, inputs)


def sample_values(inputs: ModelInputs) -> int:
    """Return the numbers in one sample."""
    return sum(tensor[0].numel() for tensor in tensors(inputs))


def describe(inputs: ModelInputs) -> str:
    """Word the shapes and types for a message."""
    if isinstance(inputs, Mapping):
        words = [f"{name} {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for name, t in inputs.items()]
        return ", ".join(words)
    return str(tuple(inputs.shape))


def name_faults(module: nn.Module, inputs: ModelInputs) -> list[str]:
    """Say which inputs the data does not give and the module needs, and which it gives and the module does not take."""
    if not isinstance(inputs, Mapping):
        return []
    parameters = inspect.signature(module.forward).parameters.values()
    takes = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needs = {p.name for p in parameters if p.name in takes and p.default is p.empty}
    faults = []
    if missing := sorted(needs - inputs.keys()):
        faults.append(f"needs {', '.join(missing)}, which the data does not give; the data has {', '.join(inputs)}")
    if extra := ", ".join(sorted(inputs.keys() - takes)):
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            faults.append(f"takes {extra} by ** alone, which is not exported; name them in its forward")
        else:
            faults.append(f"does not take {extra}, which the data gives; it takes {', '.join(sorted(takes))}")
    return faults


@dataclass(frozen=True)
class InputShape:
    """Shape of one sample of an input, and its type by numpy's name."""

    shape: tuple[int, ...]
    dtype: str


InputShapes = tuple[int, ...] | Mapping[str, InputShape]
"""Shape of a sample of floats, or of each input by name."""


def shapes_of(inputs: ModelInputs) -> InputShapes:
    """Return the shapes of a sample."""
    if isinstance(inputs, Mapping):
        kinds = {name: str(t.dtype).removeprefix("torch.") for name, t in inputs.items()}
        return {name: InputShape(tuple(t.shape[1:]), kinds[name]) for name, t in inputs.items()}
    return tuple(inputs.shape[1:])


def zeros(shapes: InputShapes, samples: int = 2) -> ModelInputs:
    """Make samples of zeros: ids of the first word, masks that hide everything."""
    if isinstance(shapes, Mapping):
        return {n: torch.zeros(samples, *each.shape, dtype=getattr(torch, each.dtype)) for n, each in shapes.items()}
    return torch.zeros(samples, *shapes)


def read_shapes(entry: Any) -> InputShapes:
    """Read shapes from JSON.

    Raises:
        ValueError: a type that no input has.
    """
    if not isinstance(entry, Mapping):
        return tuple(int(size) for size in entry)
    shapes = {str(n): InputShape(tuple(int(s) for s in each["shape"]), str(each["dtype"])) for n, each in entry.items()}
    if wrong := [each.dtype for each in shapes.values() if each.dtype not in DTYPES]:
        raise ValueError(f"input type {wrong[0]}; known: {', '.join(DTYPES)}")
    return shapes
