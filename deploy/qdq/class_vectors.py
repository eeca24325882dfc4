"""New class vectors in an ONNX file whose last layer compares an embedding of length 1 with one for each class.

Rows of that layer are all of one length, the scale of the scores. Behind Q/DQ pairs new rows get scales and integers of
their own; everything before the layer stays as it is, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from deploy.onnx_graph.graph import Graph, attribute, drop_unused_constants
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import weight_limit, weight_scales
from deploy.qdq.strip import dequantize
from profiles.quantization import QuantizationRecipe

SCALES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""What cosines are multiplied by before the softmax; 100 is CLIP's largest (Radford et al. 2021, section 2.5)."""
CLOSE = 0.1
"""By which lengths of rows may differ from their scale: integers of 8 bits change them by less."""

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True)
class VectorLayer:
    """The last layer of a model, found by ``find_vectors``.

    Attributes:
        node: that compares, a Gemm.
        dequantize: that gives its weight, where that is integers.
        rows: as floats, (classes, width).
        scale: of ``SCALES``, the rows' length.
    """

    node: onnx.NodeProto
    dequantize: onnx.NodeProto | None
    rows: Array
    scale: float


def find_vectors(model: onnx.ModelProto) -> VectorLayer:
    """Find the class vectors of a model.

    Raises:
        ValueError: its last layer is none that compares with class vectors.
    """
    graph = Graph(model)
    node = _behind_pairs(graph, graph.outputs[0])
    if node is None or node.op_type != "Gemm" or not attribute(node, "transB", 0):
        raise ValueError("its last layer is no linear one")
    given = _behind_pairs(graph, node.input[0])
    if given is None or given.op_type != "Div":
        raise ValueError("its last layer reads no embedding of length 1")
    source = graph.producer(node.input[1])
    weight = source if source is not None and source.op_type == "DequantizeLinear" else None
    if weight is not None:
        scale = graph.constant(weight.input[1]).astype(np.float32)
        integers = graph.constant(weight.input[0])
        rows = dequantize(integers, np.broadcast_to(scale.reshape(-1), len(integers)), 0)
    else:
        rows = graph.constant(node.input[1]).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    nearest = min(SCALES, key=lambda scale: abs(float(np.log(scale / max(np.median(lengths), 1e-6)))))
    if not np.allclose(lengths, nearest, rtol=CLOSE):
        raise ValueError("the rows of its last layer are not of one length")
    return VectorLayer(node=node, dequantize=weight, rows=rows, scale=nearest)


def with_vectors(model: onnx.ModelProto, vectors: Array, recipe: QuantizationRecipe | None) -> onnx.ModelProto:
    """Return a copy of ``model`` with other class vectors; a row that stays gives the same scores, bit for bit.

    Args:
        vectors: (classes, width) of any length; they get the length that the model's have.
        recipe: of the model's Q/DQ pairs, where it has any.

    Raises:
        ValueError: the model has no class vectors, or of another width.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    layer = find_vectors(changed)
    if vectors.ndim != 2 or vectors.shape[1] != layer.rows.shape[1] or not len(vectors):
        raise ValueError(f"its class vectors are {layer.rows.shape[1]} wide")
    wide = vectors.astype(np.float64)  # lengths of float32 have no squares beyond 1e38
    rows = (layer.scale * wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    constants = {constant.name: constant for constant in changed.graph.initializer}
    if layer.dequantize is None:
        _put(constants[layer.node.input[1]], rows)
        kept = _matches(rows, layer.rows)
    else:
        assert recipe is not None, "pairs are of a recipe"
        kept = _put_integers(layer.dequantize, constants, rows, recipe)
    if len(layer.node.input) > 2:
        bias = constants[layer.node.input[2]]
        before = numpy_helper.to_array(bias).reshape(-1)
        _put(bias, np.array([before[row] if row >= 0 else 0.0 for row in kept]))
    _resize_outputs(changed, len(rows))
    drop_unused_constants(changed)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _behind_pairs(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """Return the node that computes a tensor, Q/DQ pairs and changes of type between them left out."""
    node = graph.producer(tensor)
    while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity"):
        node = graph.producer(node.input[0])
    return node


def _put_integers(
    layer: onnx.NodeProto, constants: dict[str, onnx.TensorProto], rows: Array, recipe: QuantizationRecipe
) -> list[int]:
    """Quantise rows into the constants of a DequantizeLinear; returns which old row each is, -1 for new ones."""
    weight, scale, *zero = (constants[name] for name in layer.input)
    before, old = numpy_helper.to_array(weight), numpy_helper.to_array(scale).reshape(-1)
    own = weight_scales(rows, 0, recipe)
    if numpy_helper.to_array(scale).ndim == 0:
        own = np.full_like(own, own.max())
    integers = quantize_weight(rows, own, 0, weight_limit(recipe))
    kept = _matches(integers, before)
    for number, row in enumerate(kept):  # a scale that training moved stays with its row
        own[number] = old[min(row, len(old) - 1)] if row >= 0 and len(old) > 1 else own[number]
    _put(weight, integers)
    _put(scale, own if numpy_helper.to_array(scale).ndim else own[:1].reshape(()))
    for each in zero:
        _put(each, np.zeros(len(own) if numpy_helper.to_array(each).ndim else (), np.int8))
    return kept


def _matches(rows: Array, before: Array) -> list[int]:
    """Return which of the old rows each row is, -1 for none."""
    close = [np.flatnonzero(np.isclose(before, row, rtol=1e-3, atol=1e-6).all(axis=1)) for row in rows]
    return [int(found[0]) if len(found) else -1 for found in close]


def _put(constant: onnx.TensorProto, values: Array) -> None:
    """Replace a constant's values, its type staying."""
    kind = numpy_helper.to_array(constant).dtype
    constant.CopyFrom(numpy_helper.from_array(np.asarray(values).astype(kind), constant.name))


def _resize_outputs(model: onnx.ModelProto, classes: int) -> None:
    """State the new number of classes where a shape stated the old one."""
    name = model.graph.output[0].name
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.name == name:
            value.type.tensor_type.shape.dim[1].dim_value = classes
