"""Foreign ONNX files: reading, and conversion to the form that exported models have."""

from __future__ import annotations

from pathlib import Path

import onnx

from deploy.export.to_onnx import IR_VERSION, OPSET, silence_exporter
from deploy.onnx_graph.graph import drop_unused_constants, use_global_pools
from profiles.errors import UserError


def read(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and clean its model: batch norms folded, shapes inferred, a current opset.

    Raises:
        UserError: there is no such file, it is no ONNX model, is quantised already, or has several inputs.
    """
    if not path.is_file():
        raise UserError(f"model {path}: no such file")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        raise UserError(f"model {path}: not an ONNX model ({str(error).splitlines()[0][:120]})") from None
    _check_supported(model, path)
    with silence_exporter():
        return clean(model)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model to the current opset, fold constants and batch norms, and infer shapes."""
    import onnxscript.optimizer
    import onnxscript.rewriter
    from onnx import version_converter

    _remove_constant_inputs(model)
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < OPSET:
        model = version_converter.convert_version(model, OPSET)
    model = onnxscript.rewriter.rewrite(onnxscript.optimizer.optimize(model))
    _remove_constant_inputs(model)
    drop_unused_constants(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    del model.graph.value_info[:]
    model.ir_version = min(model.ir_version, IR_VERSION)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True)
    use_global_pools(inferred)
    drop_unused_constants(inferred)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _check_supported(model: onnx.ModelProto, path: Path) -> None:
    faults: list[str] = []
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}:
        faults.append(f"model {path}: is quantised already; give the float model it was made from")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [i.name for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        faults.append(f"model {path}: has the inputs {', '.join(inputs) or '(none)'}; models with one input are supported")
    if faults:
        raise UserError(*faults)


def _remove_constant_inputs(model: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
