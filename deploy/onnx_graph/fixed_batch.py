"""Fixed batch size of a model, with reshapes that hold at any width. Host only."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from deploy.onnx_graph.graph import Graph, drop_unused_constants
from profiles.errors import UserError


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Fix the batch size in a copy of a model; reshapes to ``[batch, everything else]`` then hold at any width.

    Raises:
        UserError: an input has another free size.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].dim_value:
            dimensions[0].dim_value = batch
    del fixed.graph.value_info[:]
    fixed = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
    graph = Graph(fixed)
    for node in fixed.graph.node:
        if node.op_type == "Reshape" and graph.is_constant(node.input[1]) and len(graph.constant(node.input[1])) == 2:
            flat = numpy_helper.from_array(np.asarray([graph.shape(node.output[0])[0] or batch, -1], np.int64))
            flat.name = f"{node.output[0]}/flat"
            fixed.graph.initializer.append(flat)
            node.input[1] = flat.name
    drop_unused_constants(fixed)
    if not fixed.graph.input or any(not d.dim_value for v in fixed.graph.input for d in v.type.tensor_type.shape.dim):
        raise UserError("a latency table needs a model whose inputs have fixed sizes, all but the batch")
    return fixed
