"""Activations of 16 bits: which tensors of a placement have them where some layers are to read such."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx

from deploy.onnx_graph.graph import Graph
from deploy.qdq.placement import COMPUTE, FUSED, Placement, place
from profiles.quantization import QuantizationRecipe

BITS = 16
OPSET = 21
"""From which QuantizeLinear makes integers of 16 bits."""
CHANGED = ("GroupNormalization",)
"""Operators that mean something else from there on."""


def widened(model: onnx.ModelProto, placement: Placement, layers: Collection[str], recipe: QuantizationRecipe) -> Placement:
    """Return ``placement`` with 16 bits where ``layers``, names of its ONNX nodes, read activations.

    A result that is quantised though no integer operator reads it (a detector's outputs) has 16 bits with its layer, and the
    other operand of a sum with the one. What shares a scale with such a tensor has 16 bits too: a concatenation and its
    branches, what is moved and what it is moved from. So others that read it do so as well.
    """
    if not layers:
        return placement
    graph = Graph(model)
    nodes = [node for node in graph.nodes if node.name in layers]
    own = {str(tensor) for node in nodes for tensor in node.input}
    read = place(model, replace(recipe, integer_results=()), dict(placement.kept_float)).bits
    own |= {tensor for node in nodes for tensor in _results(graph, node) if tensor not in read}
    sources = _with_operands(graph, placement, {a.source for a in placement.activations if a.tensor in own})
    wide = tuple(replace(a, bits=BITS) if a.source in sources else a for a in placement.activations)
    return replace(placement, activations=wide)


def _with_operands(graph: Graph, placement: Placement, sources: set[str]) -> set[str]:
    """Add the other operands of sums and products that read a tensor of ``sources``: an operator takes one type."""
    source_of = {activation.tensor: activation.source for activation in placement.activations}
    grew = True
    while grew:
        before = len(sources)
        for node in graph.nodes:
            read = {source_of[str(tensor)] for tensor in node.input if tensor in source_of}
            if node.op_type not in COMPUTE and read & sources:
                sources |= read
        grew = len(sources) > before
    return sources


def _results(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Return a layer's result, and what the activation function behind it makes of it."""
    reader = graph.only_consumer(node.output[0])
    return [str(node.output[0]), *(map(str, reader.output) if reader is not None and reader.op_type in FUSED else ())]


def raise_opset(model: onnx.ModelProto) -> None:
    """Raise a model to the opset that has integers of 16 bits.

    Raises:
        ValueError: it has an operator that means something else there.
    """
    if any(entry.domain in ("", "ai.onnx") and entry.version >= OPSET for entry in model.opset_import):
        return
    if changed := sorted({node.op_type for node in model.graph.node} & {*CHANGED}):
        raise ValueError(f"{', '.join(changed)} cannot be raised to opset {OPSET}, which activations of 16 bits need")
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OPSET
    model.ir_version = max(model.ir_version, 10)
