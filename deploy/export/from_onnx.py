"""Foreign ONNX files: reading, and conversion to the form that exported models have.

A foreign file is read, converted and first run in a process of its own (``deploy.files.confined``): libraries in C++ parse
it, and folding its constants or running it may take any time and memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from deploy.engines.inputs import Inputs, as_feed, describe
from deploy.export.to_onnx import IR_VERSION, OPSET, silence_exporter
from deploy.files import name_fault
from deploy.files.confined import ConfinedError, Limits, call
from deploy.onnx_graph.graph import drop_unused_constants, use_global_pools
from profiles.errors import UserError, first_line

IMPORTED_BY_READERS = ("onnxscript.optimizer", "onnxscript.rewriter")
CONVERTING = {"copies": 12, "base_s": 60, "bytes_a_second": 1_000_000}
"""What reading and converting a file may take (``Limits.of_file``)."""

RUNNING = {"copies": 40, "base_s": 120, "bytes_a_second": 1_000_000}
"""What running one batch may take."""


def read(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and clean its model: batch norms folded, shapes inferred, a current opset.

    Raises:
        UserError: there is no such file, it is no ONNX model, is quantised already, or takes more time or memory than a
            model of its size.
    """
    if not path.is_file():
        raise UserError(f"model {path}: no such file")
    with tempfile.TemporaryDirectory() as scratch:
        cleaned = Path(scratch) / "model.onnx"
        asked = {"file": str(path.absolute()), "named": str(path), "cleaned": str(cleaned)}
        try:
            beside = call("deploy.export.from_onnx:external_bytes", {"file": asked["file"]}, Limits.of_file(path, copies=8))
            call("deploy.export.from_onnx:convert", asked, Limits.of_file(path, beside_bytes=beside, **CONVERTING))
        except ConfinedError as error:
            raise UserError(f"model {path}: {error}: not an ONNX model, or one made to do so") from None
        return onnx.load(str(cleaned))


def external_bytes(file: str) -> int:
    """Return the size of the files beside an ONNX file that hold its weights; 0 where it cannot be read."""
    try:
        tensors = onnx.load(file, load_external_data=False).graph.initializer
    except (DecodeError, OSError):
        return 0
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    paths = [Path(file).parent / name for name in names if name_fault(name) is None]
    return sum(path.stat().st_size for path in paths if path.is_file())


def convert(file: str, named: str, cleaned: str) -> None:
    """Read ``file``, which errors call ``named``, and write its clean model; the confined reader's part.

    Raises:
        UserError: as ``read``.
    """
    if lost := _lost_data(Path(file)):
        raise UserError(f"model {named}: {lost}; copy it too, as the exporter wrote it")
    try:
        model = onnx.load(file)
        if unknown := _unknown_operators(model):
            words = "ONNX's opset has no such operator, and no runtime can run it; export with standard operators"
            raise UserError(f"model {named}: {', '.join(unknown)}: {words}")
        onnx.checker.check_model(model)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # protobuf's and the checker's errors share no base class
        raise UserError(f"model {named}: not an ONNX model ({first_line(error, 200)})") from None
    _check_supported(model, Path(named))
    try:
        with silence_exporter():
            content = clean(model).SerializeToString()
    except MemoryError:
        raise
    except Exception as error:  # of a graph that the checker lets pass anything may come
        raise UserError(f"model {named}: cannot be converted to opset {OPSET} ({first_line(error, 200)})") from None
    Path(cleaned).write_bytes(content)


def _lost_data(file: Path) -> str:
    """Say which file of weights beside an ONNX file is missing or too short; empty where none is, or it is no ONNX file."""
    try:
        tensors = onnx.load(str(file), load_external_data=False).graph.initializer
    except (DecodeError, OSError):
        return ""
    for tensor in tensors:
        about = {entry.key: entry.value for entry in tensor.external_data}
        name = about.get("location", "")
        if not name or name_fault(name) is not None:
            continue
        if not (beside := file.parent / name).is_file():
            return f"its weights are in {name}, which is not beside it"
        ends = [about.get(key, "0") for key in ("offset", "length")]
        needed, there = sum(int(end) for end in ends if end.isdigit()), beside.stat().st_size
        if needed > there:
            return f"its weights are in {name}, which is cut off: {there} bytes instead of {needed} or more"
    return ""


def _unknown_operators(model: onnx.ModelProto) -> list[str]:
    """List operators of ONNX's own domain that ONNX does not have; those of other domains may be known to a runtime."""
    own = {function.name for function in model.functions}
    kinds = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}
    return sorted(kind for kind in kinds - own if not onnx.defs.has(kind))


def first_outputs(model: onnx.ModelProto, inputs: Inputs) -> list[npt.NDArray[Any]]:
    """Return the outputs of a foreign model for one batch, run in a process of its own.

    Args:
        inputs: (samples, ...), or several by name, as its inputs take them.

    Raises:
        UserError: it cannot be run, or takes more time or memory than a model of its size.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: str(Path(scratch) / name) for name in ("model.onnx", "inputs.npz", "outputs.npz")}
        onnx.save(model, files["model.onnx"])
        names = [given.name for given in _inputs(model)]
        np.savez(files["inputs.npz"], *as_feed(inputs, names).values())
        asked = {"model": files["model.onnx"], "inputs": files["inputs.npz"], "outputs": files["outputs.npz"]}
        try:
            call("deploy.export.from_onnx:run_once", asked, Limits.of_file(Path(files["model.onnx"]), **RUNNING))
        except ConfinedError as error:
            raise UserError(f"cannot be run: one batch {error}") from None
        with np.load(files["outputs.npz"], allow_pickle=False) as stored:
            return [stored[name] for name in stored.files]


def run_once(model: str, inputs: str, outputs: str) -> None:
    """Run the model in a file on the inputs in another; the confined part of ``first_outputs``.

    Raises:
        UserError: it cannot be run.
    """
    from deploy.onnx_graph.run import onnx_session

    read = onnx.load(model)
    with np.load(inputs, allow_pickle=False) as stored:
        batch = dict(zip((given.name for given in _inputs(read)), (stored[name] for name in stored.files), strict=True))
    try:
        results = onnx_session(read)(batch)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class
        if "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
            raise MemoryError from None
        raise UserError(f"cannot be run on inputs {describe(batch)} ({first_line(error, 200)})") from None
    np.savez(outputs, *results)


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
    if not _inputs(model):
        faults.append(f"model {path}: has no inputs; one at least is needed")
    if faults:
        raise UserError(*faults)


def input_faults(model: onnx.ModelProto, inputs: Inputs) -> list[str]:
    """Say where samples are not what a model takes: names, types and sizes, all at once.

    Args:
        inputs: of some samples, (samples, ...), or several by name.
    """
    wanted = {given.name: given.type.tensor_type for given in _inputs(model)}
    try:
        feed = as_feed(inputs, [*wanted])
    except ValueError as error:
        return [str(error)]
    faults: list[str] = []
    for name, kind in wanted.items():
        whose = f"input {name} " if len(wanted) > 1 else ""
        array, sizes = feed[name], tuple(d.dim_value or "free" for d in kind.shape.dim)[1:]
        if len(sizes) != array.ndim - 1 or any(s not in ("free", g) for s, g in zip(sizes, array.shape[1:], strict=True)):
            faults.append(f"{whose}takes samples of shape {sizes}; the data's are {tuple(array.shape[1:])}")
        if array.dtype != (dtype := onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)):
            faults.append(f"{whose}takes {dtype}; the data gives {array.dtype}; export it with an input of that type")
    return faults


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [given for given in model.graph.input if given.name not in constants]


def _remove_constant_inputs(model: onnx.ModelProto) -> None:
    inputs = _inputs(model)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
