"""Find packed weights in an ONNX file, in whatever form it has them, and write it as model.packed. Host only."""

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

LIMITS = (127, 63, 7)
"""Largest integers of weights of 8, 7 and 4 bits."""
FLOATS: dict[int, Form] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
Taken = list[tuple[int, int]]


def pack_model(content: bytes, weights: Mapping[str, PackedTensor]) -> tuple[bytes, tuple[str, ...]]:
    """An ONNX file with some weights as indices, and the names of those that it has in no form that follows from them.

    Args:
        content: the file's bytes; its constants lie in it, not beside it.
        weights: by name. A weight is found too where the file has it by another name, transposed, in half precision, or
            in int8 as rounded from its decoded values.
    """
    graph = Graph(onnx.load_model_from_string(content))
    taken: Taken = []
    found: list[StoredWeight] = []
    for name, packed in weights.items():
        piece = _piece(name, packed, graph)
        if piece is not None and (at := _place(content, piece.content(), taken)) is not None:
            found.append(replace(piece, at=at))
    # scales after weights: few bytes may stand by chance inside a weight
    pieces = [piece for each in found if (piece := _with_scales(each, content, taken)) is not None]
    kept = {piece.name for piece in pieces}
    return write(content, pieces), tuple(name for name in weights if name not in kept)


def _piece(name: str, packed: PackedTensor, graph: Graph) -> StoredWeight | None:
    """The weight in the form that the file has it in, its place not yet known."""
    weight = packed.unpack()
    for tensor in sorted(graph.model.graph.initializer, key=lambda tensor: not tensor.name.startswith(name)):
        for axes in _turns(weight.ndim):
            turned = weight.transpose(axes)
            if turned.shape != tuple(tensor.dims):
                continue
            if (form := FLOATS.get(tensor.data_type)) and weight_bytes(turned, form, None) == tensor.raw_data:
                return StoredWeight(name=name, at=0, packed=packed, axes=axes, form=form)
            if tensor.data_type == onnx.TensorProto.INT8 and (made := _integers(tensor, turned, graph)):
                return StoredWeight(name=name, at=0, packed=packed, axes=axes, form="int8", integers=made)
    return None


def _turns(rank: int) -> list[tuple[int, ...]]:
    """The orders of axes in which a file may have a weight: a matrix also transposed."""
    return [(0, 1), (1, 0)] if rank == 2 else [tuple(range(rank))]


def _integers(tensor: onnx.TensorProto, weight: npt.NDArray[Any], graph: Graph) -> Int8Form | None:
    """How the int8 constant follows from ``weight``; None where it does not."""
    for node in graph.consumers(tensor.name):
        if node.op_type != "DequantizeLinear" or not graph.is_constant(node.input[1]):
            continue
        scale, axis = graph.constant(node.input[1]), int(attribute(node, "axis", 1))
        if scale.dtype != np.float32 or scale.shape != (weight.shape[axis],):
            continue
        for limit in LIMITS:
            made = Int8Form(scale=scale, scale_at=0, axis=axis, limit=limit)
            if weight_bytes(weight, "int8", made) == tensor.raw_data:
                return made
    return None


def _with_scales(piece: StoredWeight, content: bytes, taken: Taken) -> StoredWeight | None:
    """The piece with the place of its scales; None where they have none of their own."""
    if piece.integers is None:
        return piece
    at = _place(content, piece.integers.scale.tobytes(), taken)
    return None if at is None else replace(piece, integers=replace(piece.integers, scale_at=at))


def _place(content: bytes, told: bytes, taken: Taken) -> int | None:
    """The first place in ``content`` where ``told`` stands and nothing is taken yet; it is taken then."""
    at = content.find(told)
    while at >= 0:
        if all(at >= end or at + len(told) <= start for start, end in taken):
            taken.append((at, at + len(told)))
            return at
        at = content.find(told, at + 1)
    return None
