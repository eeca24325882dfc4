"""A model at a smaller size: captured anew, and its integers carried over from the largest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
from torch import nn

from compress.methods.packing.operations import Pack
from compress.methods.quantization.operations import Quantize
from compress.models.inputs import InputShape, InputShapes
from compress.models.plan import Plan
from compress.stages.base import Artifact
from deploy.engines.inputs import ONE
from deploy.engines.serving import Sizes
from profiles.errors import UserError


def is_captured(plan: Plan) -> bool:
    """Say whether a plan captures its model as a program, whose shapes are fixed."""
    return any(isinstance(operation, Quantize | Pack) for operation in plan.operations)


def module_at(artifact: Artifact, sizes: Sizes, size: int) -> nn.Module:
    """Return a model that takes inputs of ``size``: itself, or its plan replayed with a program of that size."""
    if not is_captured(artifact.plan) or size == sizes.largest:
        return artifact.module
    operations = tuple(
        replace(each, input_shape=_shapes_at(each.input_shape, sizes, size)) if isinstance(each, Quantize | Pack) else each
        for each in artifact.plan.operations
    )
    module = replace(artifact.plan, operations=operations).build()
    module.load_state_dict(artifact.module.state_dict())
    return module.eval()


def with_constants(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a float model of one size with the float constants of the same model at another: weights as they were changed.

    Raises:
        UserError: the graphs differ by more than sizes.
    """
    theirs = {tensor.name: tensor for tensor in source.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = {node.name: node for node in source.graph.node}
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    if missing := [name for name in layers if name not in nodes]:
        raise UserError(f"the model is another graph at another size, from {missing[0]} on; its int8 cannot be carried over")
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    own = {tensor.name: tensor for tensor in copied.graph.initializer}
    for name, tensor in theirs.items():
        if name in own and list(own[name].dims) == list(tensor.dims):
            own[name].CopyFrom(tensor)
    for node in copied.graph.node:
        read = list(nodes[node.name].input) if node.name in nodes else []
        for place, name in enumerate(read):
            if name in theirs and (place >= len(node.input) or node.input[place] != name):
                if name not in own:
                    copied.graph.initializer.append(theirs[name])
                    own[name] = theirs[name]
                if place < len(node.input):
                    node.input[place] = name
                elif place == len(node.input):
                    node.input.append(name)
    return copied


def _shapes_at(shapes: InputShapes, sizes: Sizes, size: int) -> InputShapes:
    def at(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
        return tuple(size if place == axis - 1 else each for place, each in enumerate(shape))

    if isinstance(shapes, Mapping):
        axes = sizes.axes
        return {n: InputShape(at(s.shape, axes[n]), s.dtype) if n in axes else s for n, s in shapes.items()}
    return at(shapes, sizes.axes[ONE])
