"""Free sizes of a model's inputs, fixed to those of the data: engines are built for fixed shapes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from profiles.errors import UserError


def fix_sizes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Fix the free sizes of inputs, all but the batch, in place; shapes inside are inferred anew.

    A size that several inputs share by name is fixed in all of them, and in what the model gives.

    Args:
        shapes: of one sample of each input.

    Raises:
        UserError: inputs that share a size by name are given different ones.

    Returns:
        What was fixed, an input a line: ``input_ids: tokens = 48``.
    """
    named: dict[str, int] = {}
    told: list[str] = []
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim[1:]
        fixed = []
        for axis, (dimension, size) in enumerate(zip(dimensions, shapes.get(value.name, ()), strict=False), start=1):
            if dimension.dim_value:
                continue
            if dimension.dim_param and named.setdefault(dimension.dim_param, size) != size:
                other = named[dimension.dim_param]
                words = f"share the size {dimension.dim_param}, and the data gives {other} and {size}"
                raise UserError(f"the model's inputs {words}")
            fixed.append(f"{dimension.dim_param or f'size {axis}'} = {size}")
            dimension.dim_value = size
        if fixed:
            told.append(f"{value.name}: {', '.join(fixed)}")
    if told:
        for value in model.graph.output:
            for dimension in value.type.tensor_type.shape.dim[1:]:
                if dimension.dim_param in named:
                    dimension.dim_value = named[dimension.dim_param]
        del model.graph.value_info[:]
        model.CopyFrom(onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True))
    return told
