"""ONNX -> MNN, by the converter in MNN's own package. Host only.

The converter is called in a process of its own, since it ends the process on what it cannot read; as the extension module
that it is, because MNN's command line (``mnnconvert``) and its Python package ``MNN.tools`` send a report of each conversion
and install another package for it. No line of them is run here.

int8: the converter aborts on Q/DQ pairs, but takes scales of layers in a file (``--compressionParamsFile``): the pairs'.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from deploy.export.converter import run_converter
from deploy.onnx_graph.graph import Graph
from deploy.qdq.strip import IntegerLayer, StrippedModel, strip
from profiles.errors import UserError

CONVERT = "import sys; import _tools; _tools.mnnconvert(sys.argv)"
MADE = "model.mnn"
FILES = ("-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", MADE, "--bizCode", "edge")
FUSED = frozenset({"Relu", "Clip"})
LONGEST_S = 1800.0


def to_mnn(model: onnx.ModelProto, batch: int) -> bytes:
    """Convert a model, with Q/DQ pairs or without; the batch stays free where the model's is.

    Raises:
        UserError: MNN is not installed.
        EngineError: it cannot convert the model; carries its last words.
    """
    stripped = strip(model)
    if not stripped.layers:
        return _convert(stripped.model)
    return _convert(stripped.model, scales=quantization(stripped))


def to_half_mnn(model: onnx.ModelProto, batch: int) -> bytes:
    """Convert a float model, its weights stored as float16.

    Raises:
        UserError, EngineError: as ``to_mnn``.
    """
    return _convert(model, "--fp16")


def quantization(stripped: StrippedModel) -> dict[str, Any]:
    """Describe the integers of a float model's layers as MNN's converter reads it, by the name of what a layer makes.

    A convolution is integer where its result has a scale too: MNN's read and write integers. A product of matrices stays
    float, with the weights that the integers stand for: MNN has none in integers, and written as a convolution of one pixel
    it lost answers (cosine to the float network 0.991 on x86, 0.33 on an emulated aarch64; 1.000 with it in float).
    """
    graph = Graph(stripped.model)
    by_name = {node.name: node for node in graph.nodes}
    entries = []
    for layer in stripped.layers:
        made = _made(graph, by_name[layer.node])
        result = stripped.activations.get(made)
        if result is None or by_name[layer.node].op_type != "Conv":
            continue
        reads = by_name[layer.node].input[0]
        entries.append(
            {
                "input": [_activation(str(reads), layer.input_scale, layer.input_zero_point)],
                "output": [_activation(made, *result)],
                "weight": [_weight(layer)],
            }
        )
    return {"version": "0.0.0", "algo": [{"type": "QUANTIZE", "quantParams": {"layer": entries}}]}


def _made(graph: Graph, node: onnx.NodeProto) -> str:
    """Return what a layer makes, behind the activation function that MNN fuses into it."""
    reader = graph.only_consumer(node.output[0])
    return str(reader.output[0] if reader is not None and reader.op_type in FUSED else node.output[0])


def _activation(name: str, scale: float, zero_point: int) -> dict[str, Any]:
    return {"name": name, "bits": 8, "scales": [scale], "zeroPoint": zero_point, "clampMin": -128, "clampMax": 127}


def _weight(layer: IntegerLayer) -> dict[str, Any]:
    return {"name": layer.node, "bits": 8, "scales": layer.weight_scale.tolist(), "clampMin": -127, "clampMax": 127}


def _convert(model: onnx.ModelProto, *options: str, scales: dict[str, Any] | None = None) -> bytes:
    if importlib.util.find_spec("_tools") is None or importlib.util.find_spec("MNN") is None:
        raise UserError("MNN, whose converter makes its files, is not installed here; pip install 'edge-compress[mnn]'")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.save(model, str(folder / "model.onnx"))
        if scales is not None:
            (folder / "scales.json").write_text(json.dumps(scales))
            options = (*options, "--compressionParamsFile", "scales.json")
        command = [sys.executable, "-c", CONVERT, *FILES, *options]
        run_converter("MNN", command, folder, [MADE], longest_s=LONGEST_S)
        return (folder / MADE).read_bytes()
