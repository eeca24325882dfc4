"""Export of ONNX models to the formats of engines. Host only."""

from __future__ import annotations

import onnx

from deploy.engines import BuildPlan
from profiles.errors import UserError


def model_bytes(model: onnx.ModelProto, plan: BuildPlan) -> bytes:
    """Export an ONNX model in the format that ``plan`` is built from.

    Raises:
        UserError: the format is made from a captured program, not from ONNX.
    """
    export_format = plan.format
    if export_format.made_from != "onnx":
        raise UserError(f"{plan.engine} is built from {export_format.file}, which is made from a program, not from ONNX")
    content: bytes = export_format.export()(model, plan.batch) if export_format.exporter else model.SerializeToString()
    return content
