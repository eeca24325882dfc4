"""[state] of a recipe, resolved: which inputs of a model are fed back, from which outputs, in which shape."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from compress.data import Splits
from compress.data.sequences import SequenceSamples
from compress.models.inputs import zero_states
from compress.models.layers import flat_tensors
from compress.recipe.inputs import FedState
from deploy.engines.inputs import Inputs
from deploy.engines.serving import Serving, State
from deploy.onnx_graph.states_first import put_first, sample_axis
from profiles.errors import UserError, first_line, unknown

SPLITS = ("train", "calibration", "validation", "test")


def sequence_data(data: Splits, asked: Sequence[FedState], model: nn.Module | onnx.ModelProto) -> tuple[Splits, Serving]:
    """Mark the data as sequences, and return it with the states.

    Args:
        model: the teacher as a module with any weights, or as a file, which is left as it is.

    Raises:
        UserError: names that the model does not have, shapes that change, data without steps; all of them.
    """
    batch = data.test.load(np.arange(min(2, len(data.test))))
    names = _input_names(model)
    faults = [unknown("input", spec.name, names, "[state]") for spec in asked if spec.name not in names]
    given = batch.inputs if isinstance(batch.inputs, Mapping) else None
    rest = [name for name in names if name not in {spec.name for spec in asked}]
    if given is None and not faults and not rest:
        faults.append("[state] every input of the model is a state, and none is left for the data")
    if given is not None:
        faults += [
            f"[state] {s.name}: the data gives it too; a state comes from the model" for s in asked if s.name in given
        ]
    if faults:
        raise UserError(*faults)
    arrays: dict[str, Any] = dict(given) if given is not None else {rest[0]: batch.inputs}
    if any(array.ndim < 2 for array in arrays.values()) or len({array.shape[1] for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(f"[state] inputs are sequences (samples, steps, ...) of as many steps each; given: {shapes}")
    steps = next(iter(arrays.values())).shape[1]
    every = batch.targets.ndim > 1 and batch.targets.shape[1] == steps
    step = {name: array[:, 0] for name, array in arrays.items()}
    states = _of_file(model, asked, step) if isinstance(model, onnx.ModelProto) else _of_module(model, asked, step)
    serving = Serving(states=states, every=every)
    changed: dict[str, Any] = {n: SequenceSamples(getattr(data, n), serving, next(iter(arrays))) for n in SPLITS}
    return replace(data, **changed), serving


def states_put_first(model: onnx.ModelProto, asked: Sequence[FedState]) -> None:
    """Move the samples' axis of a file's states to the front, in place."""
    names, states = [value.name for value in model.graph.input], {spec.name for spec in asked}
    outputs = [value.name for value in model.graph.output]
    among = next(name for name in names if name not in states)
    places = {spec.name: _place(spec, outputs) for spec in asked if spec.name in names}
    put_first(model, {n: (outputs[at], sample_axis(model, n, among)) for n, at in places.items() if at is not None})


def _input_names(model: nn.Module | onnx.ModelProto) -> list[str]:
    if isinstance(model, onnx.ModelProto):
        return [value.name for value in model.graph.input]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, each in inspect.signature(model.forward).parameters.items() if each.kind in kinds]


def _place(spec: FedState, outputs: Sequence[str]) -> int | None:
    """Return the place of the output that is fed back; None where there is none of that name or number."""
    if isinstance(spec.output, int):
        return spec.output if spec.output < len(outputs) else None
    return outputs.index(spec.output) if spec.output in outputs else None


def _missing(spec: FedState, outputs: Sequence[str]) -> str:
    return f"[state] {spec.name}: the model gives no output {spec.output!r}; it gives {', '.join(outputs)}"


def _of_module(module: nn.Module, asked: Sequence[FedState], step: Inputs) -> tuple[State, ...]:
    """Find the states of a module by two steps of it."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in dict(step).items()}
    parameters, module = inspect.signature(module.forward).parameters, module.eval()
    unshaped = [s for s in asked if s.shape is None and parameters[s.name].default is inspect.Parameter.empty]
    if unshaped:
        words = "its shape is not told, and forward has no default for it; write"
        raise UserError(
            *[f'[state] {s.name}: {words} {s.name} = {{ output = "{s.output}", shape = [...] }}' for s in unshaped]
        )
    samples = len(next(iter(tensors.values())))
    known = {spec.name: torch.zeros(samples, *spec.shape) for spec in asked if spec.shape is not None}
    try:
        with torch.no_grad():
            first = module(**tensors, **known)
    except Exception as error:  # whatever a module says to what it does not take
        raise UserError(f"[state] the model does not take one step of the data: {first_line(error, 200)}") from None
    names, found = _output_names(first), flat_tensors(first)
    if faults := [_missing(spec, names) for spec in asked if _place(spec, names) is None]:
        raise UserError(*faults)
    states = []
    for spec in asked:
        place = _place(spec, names)
        assert place is not None
        shape = tuple(found[place].shape)
        if shape[:1] != (samples,):
            fact = f"its output is {shape} for two samples; samples come first"
            raise UserError(f"[state] {spec.name}: {fact}: transpose it in forward, as h.transpose(0, 1)")
        kind = str(found[place].dtype).removeprefix("torch.")
        states.append(State(name=spec.name, output=place, shape=shape[1:], dtype=kind))
    if len(found) == len(states):
        raise UserError("[state] every output of the model is fed back, and none is left to be read")
    _check_again(module, tensors, tuple(states))
    return tuple(states)


def _check_again(module: nn.Module, step: dict[str, torch.Tensor], states: tuple[State, ...]) -> None:
    """Raise ``UserError`` where a state comes back in another shape than it was fed in."""
    try:
        fed = zero_states(module, step, states)
    except Exception as error:  # whatever a module says to a call without its states
        names = ", ".join(state.name for state in states)
        fact = f"{names}: forward has a default, and the model does not take one step without it: {first_line(error, 150)}"
        raise UserError(f"[state] {fact}; take the default off, or begin with zeros where it is None") from None
    try:
        with torch.no_grad():
            found = flat_tensors(module(**step, **fed))
    except Exception as error:  # whatever a module says to what it does not take
        fact = f"{', '.join(fed)}: the model does not take back what it gives: {first_line(error, 150)}"
        raise UserError(f"[state] {fact}; its shape must stay") from None
    shapes = {s.name: (tuple(fed[s.name].shape), tuple(found[s.output].shape)) for s in states}
    changed = {name: (before, after) for name, (before, after) in shapes.items() if before != after}
    if faults := [f"[state] {n}: is {a} and comes back as {b}; its shape must stay" for n, (a, b) in changed.items()]:
        raise UserError(*faults)


def _output_names(outputs: Any) -> list[str]:
    """Return the names of a module's outputs: keys, fields, or places."""
    if isinstance(outputs, Mapping):
        return [str(key) for key, value in outputs.items() for _ in flat_tensors(value)]
    fields = getattr(outputs, "_fields", None)
    return list(fields) if fields else [str(place) for place in range(len(flat_tensors(outputs)))]


def _of_file(model: onnx.ModelProto, asked: Sequence[FedState], step: Inputs) -> tuple[State, ...]:
    """Find the states of a file by its shapes."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    outputs = [value.name for value in copied.graph.output]
    faults = [_missing(spec, outputs) for spec in asked if _place(spec, outputs) is None]
    if not faults:
        states_put_first(copied, asked)
    types = {value.name: value.type.tensor_type for value in [*copied.graph.input, *copied.graph.output]}
    states = []
    for spec in asked:
        dims = types[spec.name].shape.dim[1:]
        free = [dim.dim_param or "without a name" for dim in dims if not dim.dim_value]
        shape = spec.shape if spec.shape is not None else tuple(dim.dim_value for dim in dims)
        if free and spec.shape is None:
            fact = f"its size {', '.join(free)} is free in the file"
            faults.append(f'[state] {spec.name}: {fact}; write {spec.name} = {{ output = "{spec.output}", shape = [...] }}')
        place = _place(spec, outputs)
        if place is None:
            continue
        back = types[outputs[place]].shape.dim[1:]
        if len(back) != len(dims) or any(_differ(a, b) for a, b in zip(dims, back, strict=True)):
            sizes = [tuple(d.dim_value or d.dim_param for d in each) for each in (dims, back)]
            faults.append(f"[state] {spec.name}: is {sizes[0]} and comes back as {sizes[1]}; its shape must stay")
        kind = str(onnx.helper.tensor_dtype_to_np_dtype(types[spec.name].elem_type))
        states.append(State(name=spec.name, output=place, shape=shape, dtype=kind))
    if not faults and len(states) == len(outputs):
        faults.append("[state] every output of the model is fed back, and none is left to be read")
    if faults:
        raise UserError(*faults)
    return tuple(states)


def _differ(one: Any, other: Any) -> bool:
    """Say whether two sizes of a file are known and not the same."""
    return bool(one.dim_value and other.dim_value and one.dim_value != other.dim_value)
