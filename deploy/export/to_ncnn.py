"""ONNX -> NCNN: one file of the graph (text), the weights and the tensors' names. Host only; needs the program ``pnnx``.

Layers behind Q/DQ pairs become NCNN's int8 layers with the very integers and scales of the pairs; the table of the same
ranges, as NCNN's own tools read and write it, lies beside them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import onnx

from deploy.export import pnnx
from deploy.export.ncnn_int8 import calibration_table, with_integers
from deploy.qdq.strip import strip

WHEN = (1980, 1, 1, 0, 0, 0)
"""A time for every member, so that equal models make equal bytes."""
NUMPY: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT32: "int32", onnx.TensorProto.INT64: "int64"}


def to_ncnn(model: onnx.ModelProto, batch: int) -> bytes:
    """Convert a model, with Q/DQ pairs or without; NCNN runs one sample at a time, whatever ``batch`` is.

    Raises:
        UserError: pnnx is not installed.
        EngineError: it cannot convert the model, or NCNN has no such layer.
    """
    stripped = strip(model)
    graph, weights = pnnx.convert(stripped.model)
    members: dict[str, str | bytes] = {}
    if stripped.layers:
        graph, weights, layers = with_integers(graph, weights, stripped.layers)
        members["model.table"] = calibration_table(layers)
    return _packed(model, {"model.param": graph, "model.bin": weights, **members})


def to_half_ncnn(model: onnx.ModelProto, batch: int) -> bytes:
    """Convert a float model, its weights stored as float16.

    Raises:
        UserError, EngineError: as ``to_ncnn``.
    """
    graph, weights = pnnx.convert(model, half=True)
    return _packed(model, {"model.param": graph, "model.bin": weights})


def _packed(model: onnx.ModelProto, members: Mapping[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"model.json": json.dumps(_tensors(model), indent=1), **members}.items():
            archive.writestr(zipfile.ZipInfo(name, WHEN), content)
    return file.getvalue()


def _tensors(model: onnx.ModelProto) -> dict[str, Any]:
    """Describe inputs and outputs, in order, by name and the shape of one sample: NCNN keeps neither."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return {key: [_tensor(v) for v in values] for key, values in (("inputs", inputs), ("outputs", model.graph.output))}


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    return {"name": value.name, "shape": sizes[1:], "dtype": NUMPY.get(tensor.elem_type, "float32")}
