"""[input] of a recipe, resolved: which axes of a model's inputs and outputs have the sizes that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch

from compress.data import Splits
from compress.data.sized import SizedSamples, names_of, too_long
from compress.models.inputs import as_tensors, call, describe
from compress.models.layers import flat_tensors
from compress.recipe.inputs import FreeSize
from deploy.engines.inputs import ONE, Inputs, by_name
from deploy.engines.serving import Sizes
from deploy.onnx_graph.fixed_sizes import fix_sizes
from profiles.errors import UserError, first_line, unknown

SPLITS = ("train", "calibration", "validation", "test")


Model = torch.nn.Module | onnx.ModelProto


def sized_data(data: Splits, asked: Sequence[FreeSize], model: Model) -> tuple[Splits, Sizes | None]:
    """Bring the data to the sizes that a recipe asks for; return it, and the sizes where there are several.

    Args:
        model: the teacher as a module with any weights, or as a file.

    Raises:
        UserError: sizes that the model has not, axes that are not told, or samples that no size holds; all of them.
    """
    inputs = data.test.load(np.arange(min(2, len(data.test)))).inputs
    faults: list[str] = []
    found = [_located(spec, inputs, model, data.preprocessing, faults) for spec in asked]
    if faults:
        raise UserError(*faults)
    several: Sizes | None = None
    for sizes in [each for each in found if each is not None]:
        shorter = [name for name in SPLITS if sizes.width(data.test.load(np.arange(1)).inputs) > sizes.largest]
        faults += [fault for name in shorter for fault in too_long(name, getattr(data, name), sizes)]
        changed: dict[str, Any] = {name: SizedSamples(getattr(data, name), sizes) for name in SPLITS}
        data = replace(data, **changed)
        if len(sizes.sizes) > 1:
            several = sizes
    if faults:
        raise UserError(*dict.fromkeys(faults))
    if several is not None:
        several = replace(several, outputs=_output_axes(several, data.test.load(np.arange(2)).inputs, model))
    return data, several


def _located(
    spec: FreeSize, inputs: Inputs, model: Any, preprocessing: Mapping[str, Any], faults: list[str]
) -> Sizes | None:
    """Find the axes that have the size which ``spec`` names."""
    where = f"[input] {spec.name}"
    names = names_of(inputs)
    faults += [unknown("input", name, names, where) for name in spec.inputs if name not in names]
    if isinstance(model, onnx.ModelProto) and spec.axis is None:
        axes = _axes_of_file(spec, model, where, faults)
        axes = {ONE: next(iter(axes.values()))} if axes and not isinstance(inputs, Mapping) else axes
    else:
        axes = _axes_of_data(spec, inputs, where, faults)
    if not axes:
        return None
    mask = next((n for n in axes if "mask" in n and by_name(inputs)[n].dtype.kind in "iub"), "")
    fill = dict(spec.fill)
    if "input_ids" in axes and "fill_id" in preprocessing:
        fill.setdefault("input_ids", int(preprocessing["fill_id"]))
    faults += [unknown("input", name, list(axes), f"{where} fill") for name in fill if name not in axes]
    return Sizes(name=spec.name, sizes=tuple(sorted(spec.sizes)), axes=axes, mask=mask, fill=fill)


def _axes_of_file(spec: FreeSize, model: onnx.ModelProto, where: str, faults: list[str]) -> dict[str, int]:
    """Find a free size of an ONNX file by its name there."""
    free: dict[str, dict[str, int]] = {}
    for value in model.graph.input:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if axis and dimension.dim_param:
                free.setdefault(dimension.dim_param, {})[value.name] = axis
    if spec.name not in free:
        rest = "the file has no free size but the batch" if not free else unknown("free size", spec.name, list(free), where)
        faults.append(rest if free else f"{where}: {rest}; leave it out")
        return {}
    return {name: axis for name, axis in free[spec.name].items() if not spec.inputs or name in spec.inputs}


def _axes_of_data(spec: FreeSize, inputs: Inputs, where: str, faults: list[str]) -> dict[str, int]:
    """Find the axis of a module's inputs: as told, or by the data's sizes: where it is the largest size, or the only one."""
    arrays = {name: array for name, array in by_name(inputs).items() if not spec.inputs or name in spec.inputs}
    if spec.axis is not None:
        return {name: spec.axis for name, array in arrays.items() if array.ndim > spec.axis}
    largest, every = max(spec.sizes), max((size for array in arrays.values() for size in array.shape), default=0) + 1
    for wanted in (range(largest, largest + 1), range(2, every)):
        axes = {n: [axis for axis, size in enumerate(a.shape) if axis and size in wanted] for n, a in arrays.items()}
        found = {name: each[0] for name, each in axes.items() if len(each) == 1}
        shared = {arrays[name].shape[axis] for name, axis in found.items()}
        if found and len(shared) == 1 and all(len(each) < 2 for each in axes.values()):
            return found
    if not arrays:
        return {}  # of inputs that there are not
    given = describe(as_tensors(inputs))
    remedy = f"write {spec.name} = {{ sizes = {list(spec.sizes)}, axis = 1 }}"
    faults.append(f"{where}: which axis has it? inputs are {given}; {remedy}")
    return {}


def _output_axes(sizes: Sizes, inputs: Inputs, model: Any) -> tuple[int, ...]:
    """Find the axis of each output that has the size, by what the model gives at each; 0 for outputs without it.

    Raises:
        UserError: the model does not take a size.
    """
    run = _shapes_of_file(model) if isinstance(model, onnx.ModelProto) else _shapes_of_module(model)
    shapes: dict[int, list[tuple[int, ...]]] = {}
    for size in sizes.sizes:
        try:
            shapes[size] = run(sizes.at(inputs, size))
        except Exception as error:  # whatever a model says to a size that it does not take
            raise UserError(f"[input] {sizes.name}: the model does not take {size}: {first_line(error, 200)}") from None
    small, large = shapes[sizes.sizes[0]], shapes[sizes.largest]
    axes = []
    for place, (one, other) in enumerate(zip(small, large, strict=True)):
        differ = [axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        sizes_there = [(one[axis], other[axis]) for axis in differ]
        if len(differ) > 1 or any(each != (sizes.sizes[0], sizes.largest) for each in sizes_there):
            fact = f"output {place} is {one} at {sizes.sizes[0]} and {other} at {sizes.largest}"
            raise UserError(f"[input] {sizes.name}: {fact}; at most one size of an output may be the input's")
        axes.append(differ[0] if differ else 0)
    return tuple(axes)


def _shapes_of_module(module: torch.nn.Module) -> Callable[[Inputs], list[tuple[int, ...]]]:
    def run(inputs: Inputs) -> list[tuple[int, ...]]:
        with torch.no_grad():
            return [tuple(output.shape) for output in flat_tensors(call(module.eval(), as_tensors(inputs)))]

    return run


def _shapes_of_file(model: onnx.ModelProto) -> Callable[[Inputs], list[tuple[int, ...]]]:
    def run(inputs: Inputs) -> list[tuple[int, ...]]:
        fixed, arrays = onnx.ModelProto(), by_name(inputs)
        fixed.CopyFrom(model)
        names = [value.name for value in fixed.graph.input]
        given = arrays if isinstance(inputs, Mapping) else {names[0]: arrays[ONE]}
        fix_sizes(fixed, {name: array.shape[1:] for name, array in given.items()})
        return [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in fixed.graph.output]

    return run
