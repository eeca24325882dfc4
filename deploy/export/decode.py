"""A detector's decode in an ONNX model: cut off before it, or written behind it. Host only.

Boxes are pixels and scores are from 0 to 1: integers of one scale that hold both leave two or three values for the
scores. So the decode is no integer arithmetic. It is cut where the branches end, at the last layers with weights, or stays
float (``deploy.qdq.placement``, rule 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx
from onnx import compose
from onnx.utils import Extractor

from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.processing.detection.base import Head
from deploy.processing.detection.choose import reader
from deploy.qdq.placement import COMPUTE, is_expectation

if TYPE_CHECKING:
    import torch

MOST_BRANCHES = 30
"""Tensors at which a graph is cut: three for each of many maps."""


def last_layers(model: onnx.ModelProto) -> list[str]:
    """Return the results of the last layers with weights, from which the outputs follow by arithmetic alone, in order.

    The mean of a distribution, a layer by its form, is arithmetic.
    """
    graph = Graph(model)
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        tensor = waiting.pop()
        node = graph.producer(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        is_layer = node.op_type in COMPUTE and graph.is_constant(node.input[1]) and not is_expectation(graph, node)
        if is_layer:
            found[str(node.output[0])] = None
        else:
            waiting += [name for name in node.input if name and not graph.is_constant(name)]
    order = [name for node in graph.nodes for name in node.output]
    return sorted(found, key=order.index)


def cut_at(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a model that gives ``tensors`` in place of the outputs, without what is behind them."""
    known = {value.name for value in [*model.graph.value_info, *model.graph.output]}
    assert set(tensors) <= known, "shapes are inferred when a model is read"
    inputs = Graph(model).inputs
    made: onnx.ModelProto = Extractor(model).extract_model(inputs, list(tensors))
    made.graph.name = model.graph.name
    onnx.checker.check_model(made)
    return made


def attach(model: onnx.ModelProto, name: str, head: Head, outputs: Sequence[torch.Tensor]) -> onnx.ModelProto:
    """Return ``model`` with the decode of a reader behind it: corners (samples, places, 4) and scores, two outputs.

    Args:
        outputs: the model's on two samples or more, for their shapes.
    """
    names = [value.name for value in model.graph.output]
    decode = compose.add_prefix(to_onnx(capture(_decode(name, head), list(outputs))), "decode/")
    decode.ir_version = model.ir_version
    del decode.opset_import[:]
    decode.opset_import.extend(model.opset_import)
    given = [value.name for value in decode.graph.input]
    merged: onnx.ModelProto = compose.merge_models(model, decode, io_map=list(zip(names, given, strict=True)))
    for old, new in zip([value.name for value in merged.graph.output], ("boxes", "scores"), strict=True):
        _rename(merged, old, new)
    merged = onnx.shape_inference.infer_shapes(merged)
    onnx.checker.check_model(merged, full_check=True)
    return merged


def _decode(name: str, head: Head) -> Any:
    """The reader as a module."""
    from torch import nn

    class Decode(nn.Module):
        def forward(self, *outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            reading = reader(name).read(outputs, head)
            return reading.boxes, reading.scores

    return Decode()


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in [*model.graph.output, *model.graph.value_info]:
        if value.name == old:
            value.name = new
