"""Q/DQ pairs in a captured program, as torch's quantize and dequantize operators. Host only.

Placement and scales are the same that make the ONNX file's pairs. Runtimes that are built from the program fold the
operators into their kernels: what was trained is what runs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.export.to_onnx import tensor_nodes
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import Scales, activation_limits, activation_type, weight_limit, weight_scales
from deploy.qdq.placement import Placement
from profiles.quantization import QuantizationRecipe

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.export import ExportedProgram


@dataclass(frozen=True, kw_only=True)
class QuantizationSpec:
    """The placement and scales for an int8 program; a weight without a scale gets that of its largest magnitude."""

    placement: Placement
    scales: Scales
    recipe: QuantizationRecipe


def example_inputs(program: ExportedProgram, batch: int) -> tuple[torch.Tensor, ...]:
    """Make zeros in the shapes of the program's inputs, free dimensions set to ``batch``."""
    import torch

    names = set(program.graph_signature.user_inputs)
    inputs = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    return tuple(torch.zeros([s if isinstance(s, int) else batch for s in v.shape], dtype=v.dtype) for v in inputs)


def define_operators() -> None:
    """Let torch define the operators of pairs, by importing where they are."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")


def quantize(graph: fx.GraphModule, integers: QuantizationSpec, *, constants: bool = True) -> None:
    """Insert the pairs.

    Args:
        constants: weights become int8 constants; else they stay float, behind a pair.
    """
    define_operators()
    nodes = tensor_nodes(graph.graph)
    for activation in integers.placement.pairs:
        if (node := nodes.get(activation.tensor)) is not None:  # else a tensor that only the ONNX file has
            grid = integers.scales.activations[activation.tensor]
            _quantize_activation(graph, node, *grid, integers.recipe, activation.bits)
    for number, weight in enumerate(integers.placement.weights):
        made = integers.scales.weights.get(weight.tensor)
        _quantize_weight(graph, nodes[weight.layer], number, made, integers.recipe, constants=constants)
    graph.graph.lint()
    graph.recompile()


def _quantize_activation(
    graph: fx.GraphModule, node: fx.Node, scale: float, zero_point: int, recipe: QuantizationRecipe, bits: int
) -> None:
    """Insert a quantize behind ``node``, and a dequantize for each reader: XNNPACK folds one into each."""
    import torch

    operators: Any = torch.ops.quantized_decomposed
    integer = getattr(torch, activation_type(recipe, bits).name)
    parameters = (scale, zero_point, *activation_limits(recipe, bits), integer)
    readers = [reader for reader in node.users if reader.op != "output" or recipe.integer_results]
    with graph.graph.inserting_after(node):
        quantized = graph.graph.call_function(operators.quantize_per_tensor.default, (node, *parameters))
    for reader in readers:
        with graph.graph.inserting_before(reader):
            dequantized = graph.graph.call_function(operators.dequantize_per_tensor.default, (quantized, *parameters))
        reader.replace_input_with(node, dequantized)


def _quantize_weight(
    graph: fx.GraphModule, layer: fx.Node, number: int, scale: Any, recipe: QuantizationRecipe, *, constants: bool
) -> None:
    """Put the layer's weight behind a pair, for every layer that reads the same weight."""
    import torch

    operators: Any = torch.ops.quantized_decomposed
    source: Any = layer.args[1]
    value = graph.get_parameter(str(source.target)).detach().numpy()
    scale = weight_scales(value, 0, recipe) if scale is None else scale
    limit = weight_limit(recipe)
    named = {"scale": torch.from_numpy(scale), "zero_point": torch.zeros(len(scale), dtype=torch.int64)}
    if constants:
        named["integers"] = torch.from_numpy(quantize_weight(value, scale, 0, limit))
    for name, constant in named.items():
        graph.register_buffer(f"weight_{number}_{name}", constant)
    bounds = (0, -limit, limit, torch.int8)
    reads = [node for node in graph.graph.nodes if node.op == "get_attr" and node.target == source.target]
    for read in reads:
        for reader in list(read.users):
            with graph.graph.inserting_before(reader):
                tensors: Any = {name: graph.graph.get_attr(f"weight_{number}_{name}") for name in named}
                grid = (tensors["scale"], tensors["zero_point"], *bounds)
                integers = tensors.get("integers")
                if integers is None:
                    integers = graph.graph.call_function(operators.quantize_per_channel.default, (read, *grid))
                dequantized = graph.graph.call_function(operators.dequantize_per_channel.default, (integers, *grid))
            reader.replace_input_with(read, dequantized)
        if constants:
            graph.graph.erase_node(read)
