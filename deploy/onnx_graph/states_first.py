"""States of an ONNX file with the samples' axis first, as engines are fed. Host only."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper


def sample_axis(model: onnx.ModelProto, name: str, among: str) -> int:
    """Return the axis of a state that counts samples: the one whose size is called, or is, that of another input's first.

    Args:
        among: an input whose samples are first.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    batch = shapes[among][0]
    sizes = [dim.dim_param or dim.dim_value for dim in shapes[name]]
    wanted = batch.dim_param or batch.dim_value
    return sizes.index(wanted) if wanted in sizes else 0


def put_first(model: onnx.ModelProto, axes: Mapping[str, tuple[str, int]]) -> None:
    """Move the samples' axis of states to the front, of inputs and of what is fed back, in place.

    Args:
        axes: by input, the output that is fed back to it and the axis of the samples in both.
    """
    inputs = {value.name: value for value in model.graph.input}
    outputs = {value.name: value for value in model.graph.output}
    for name, (output, axis) in axes.items():
        if axis == 0:
            continue
        rank = len(inputs[name].type.tensor_type.shape.dim)
        back = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        front = [axis, *(each for each in range(rank) if each != axis)]
        for node in model.graph.node:
            node.input[:] = [f"{name}/inside" if each == name else each for each in node.input]
            node.input[:] = [f"{output}/inside" if each == output else each for each in node.input]
            node.output[:] = [f"{output}/inside" if each == output else each for each in node.output]
        model.graph.node.insert(0, helper.make_node("Transpose", [name], [f"{name}/inside"], f"{name}/back", perm=back))
        model.graph.node.append(helper.make_node("Transpose", [f"{output}/inside"], [output], f"{output}/front", perm=front))
        for value in (inputs[name], outputs[output]):
            dims = [onnx.TensorShapeProto.Dimension() for _ in range(rank)]
            for dim, source in zip(dims, front, strict=True):
                dim.CopyFrom(value.type.tensor_type.shape.dim[source])
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(dims)
    if any(axis for _, axis in axes.values()):
        del model.graph.value_info[:]
        model.CopyFrom(onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True))
