"""Conversion of ONNX models to half precision, for strongly typed runtimes. Host only.

Inputs and outputs stay float32, so that a session has the same interface. Q/DQ pairs keep their integers; their scales
and all other float tensors become half precision.
"""

from __future__ import annotations

import logging

import onnx

TYPED_PAIRS_OPSET = 19
"""From here on QuantizeLinear and DequantizeLinear take half-precision scales."""


def half_bytes(model: onnx.ModelProto, batch: int) -> bytes:
    """Export a model in half precision, as the bytes of an ONNX file."""
    content: bytes = convert_to_half(model).SerializeToString()
    return content


def convert_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert ``model`` to half precision by ONNX Runtime's converter; operators without a half form stay float32."""
    import onnx_ir
    from onnx import version_converter
    from onnxruntime.transformers.float16 import convert_float_to_float16

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        if any(entry.domain in ("", "ai.onnx") and entry.version < TYPED_PAIRS_OPSET for entry in model.opset_import):
            model = version_converter.convert_version(model, TYPED_PAIRS_OPSET)
        converted = convert_float_to_float16(model, keep_io_types=True)
    finally:
        logging.disable(disabled)
    sorted_model = onnx_ir.from_proto(converted)
    sorted_model.graph.sort()  # the converter appends its casts of inputs at the end
    result: onnx.ModelProto = onnx_ir.to_proto(sorted_model)
    onnx.checker.check_model(result, full_check=True)
    return result
