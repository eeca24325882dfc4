"""Packed form of an ONNX file: its packed weights are found in any form and replaced by indices. Host only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from deploy.onnx_graph.graph import Graph, attribute
from deploy.packing.indices import PackedTensor
from deploy.packing.packed_file import Form, Int8Form, StoredWeight, weight_bytes, write
from deploy.qdq.tables import table_scales

LIMITS = (127, 63, 7)
"""Largest integers of weights of 8, 7 and 4 bits."""
FLOATS: dict[int, Form] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
Intervals = list[tuple[int, int]]


def pack_model(content: bytes, weights: Mapping[str, PackedTensor]) -> tuple[bytes, tuple[str, ...]]:
    """Pack an ONNX file with ``weights`` as indices.

    Args:
        content: the file's bytes; its constants lie in it, not beside it.
        weights: by name. A weight is found too where the file has it by another name, transposed, in half precision, or
            in int8 as rounded from its decoded values.

    Returns:
        The bytes of model.packed, and the names of weights without any such form in the file.
    """
    graph = Graph(onnx.load_model_from_string(content))
    claimed: Intervals = []
    candidates: list[StoredWeight] = []
    for name, packed in weights.items():
        stored = _find_weight(name, packed, graph)
        if stored is not None and (at := _claim(content, stored.content(), claimed)) is not None:
            candidates.append(replace(stored, at=at))
    # scales after weights: few bytes may stand by chance inside a weight
    stored_weights = [stored for each in candidates if (stored := _with_scales(each, content, claimed)) is not None]
    kept = {stored.name for stored in stored_weights}
    return write(content, stored_weights), tuple(name for name in weights if name not in kept)


def _find_weight(name: str, packed: PackedTensor, graph: Graph) -> StoredWeight | None:
    """Find the form of a weight in the file, without its place; None where it has none."""
    weight = packed.unpack()
    for tensor in sorted(graph.model.graph.initializer, key=lambda tensor: not tensor.name.startswith(name)):
        for axes in _axis_orders(weight.ndim):
            transposed = weight.transpose(axes)
            if transposed.shape != tuple(tensor.dims):
                continue
            if (form := FLOATS.get(tensor.data_type)) and weight_bytes(transposed, form, None) == tensor.raw_data:
                return StoredWeight(name=name, at=0, packed=packed, axes=axes, form=form)
            if tensor.data_type == onnx.TensorProto.INT8 and (int8_form := _find_int8_form(tensor, transposed, graph)):
                return StoredWeight(name=name, at=0, packed=packed, axes=axes, form="int8", integers=int8_form)
    return None


def _axis_orders(rank: int) -> list[tuple[int, ...]]:
    """Return the axis orders in which a file may store a weight: a matrix also transposed."""
    return [(0, 1), (1, 0)] if rank == 2 else [tuple(range(rank))]


def _find_int8_form(tensor: onnx.TensorProto, weight: npt.NDArray[Any], graph: Graph) -> Int8Form | None:
    """Find scale and limit that quantise ``weight`` to the int8 constant; None without such."""
    for node in graph.consumers(tensor.name):
        if (table := table_scales(graph, node)) is not None:
            scale, axis = table, 0
        elif node.op_type == "DequantizeLinear" and graph.is_constant(node.input[1]):
            scale, axis = graph.constant(node.input[1]), int(attribute(node, "axis", 1))
        else:
            continue
        if scale.dtype != np.float32 or scale.shape != (weight.shape[axis],):
            continue
        for limit in LIMITS:
            int8_form = Int8Form(scale=scale, scale_at=0, axis=axis, limit=limit)
            if weight_bytes(weight, "int8", int8_form) == tensor.raw_data:
                return int8_form
    return None


def _with_scales(stored: StoredWeight, content: bytes, claimed: Intervals) -> StoredWeight | None:
    """Add the place of its scales to a stored weight; None where the file has no free place with them."""
    if stored.integers is None:
        return stored
    at = _claim(content, stored.integers.scale.tobytes(), claimed)
    return None if at is None else replace(stored, integers=replace(stored.integers, scale_at=at))


def _claim(content: bytes, pattern: bytes, claimed: Intervals) -> int | None:
    """Claim the first occurrence of ``pattern`` in ``content`` that overlaps no claimed bytes; return its offset."""
    at = content.find(pattern)
    while at >= 0:
        if all(at >= end or at + len(pattern) <= start for start, end in claimed):
            claimed.append((at, at + len(pattern)))
            return at
        at = content.find(pattern, at + 1)
    return None
