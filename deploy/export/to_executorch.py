"""torch -> ExecuTorch: a captured program as a ``.pte`` file of XNNPACK kernels. Host only; needs torch and executorch.

In int8 the placement and scales are the same that make the ONNX file's Q/DQ pairs, written as torch's quantize and
dequantize operators, which XNNPACK's partitioner folds into its kernels: what was trained is what runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.engines.base import EngineError
from deploy.engines.executorch import NAMES
from deploy.export.to_onnx import graph_inputs_outputs, input_names, silence_exporter, to_graph_module
from deploy.packing.indices import quantize_weight
from deploy.qdq.insert import Scales, activation_limits, weight_limit, weight_scales
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


def to_pte(program: ExportedProgram, batch: int, integers: QuantizationSpec | None = None) -> bytes:
    """Lower the float ``program`` to XNNPACK for ``batch`` samples, in fp32, or in int8 with ``integers``.

    Operators without an XNNPACK kernel run in ExecuTorch's portable ones.

    Raises:
        EngineError: ExecuTorch cannot lower the program; carries its reason.
    """
    import torch

    with silence_exporter():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        graph = to_graph_module(program)
        if integers is not None:
            _quantize(graph, integers)
        try:
            with torch.no_grad():
                fixed = torch.export.export(graph.eval(), _example(program, batch))
            names = input_names(program)
            named = {NAMES: torch.tensor([*json.dumps(names).encode()], dtype=torch.uint8)} if names else None
            lowered = to_edge_transform_and_lower(fixed, partitioner=[XnnpackPartitioner()], constant_methods=named)
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # the lowering's many passes raise as they like
            raise EngineError(f"ExecuTorch cannot lower the model: {str(error).splitlines()[0][:200]}") from error


def _example(program: ExportedProgram, batch: int) -> tuple[torch.Tensor, ...]:
    """Make zeros in the shapes of the program's inputs, free dimensions set to ``batch``."""
    import torch

    names = set(program.graph_signature.user_inputs)
    inputs = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    return tuple(torch.zeros([s if isinstance(s, int) else batch for s in v.shape], dtype=v.dtype) for v in inputs)


def _quantize(graph: fx.GraphModule, integers: QuantizationSpec) -> None:
    nodes = {node.name: node for node in graph.graph.nodes} | graph_inputs_outputs(graph.graph)
    for activation in integers.placement.pairs:
        if (node := nodes.get(activation.tensor)) is not None:  # else a tensor that only the ONNX file has
            _quantize_activation(graph, node, *integers.scales.activations[activation.tensor], integers.recipe)
    for number, weight in enumerate(integers.placement.weights):
        _quantize_weight(graph, nodes[weight.layer], number, integers.scales.weights.get(weight.tensor), integers.recipe)
    graph.graph.lint()
    graph.recompile()


def _quantize_activation(
    graph: fx.GraphModule, node: fx.Node, scale: float, zero_point: int, recipe: QuantizationRecipe
) -> None:
    """Insert a quantize behind ``node``, and a dequantize for each reader: XNNPACK folds one into each."""
    import torch

    operators: Any = torch.ops.quantized_decomposed
    integer = torch.int8 if recipe.activation == "int8" else torch.uint8
    parameters = (scale, zero_point, *activation_limits(recipe), integer)
    readers = [reader for reader in node.users if reader.op != "output" or recipe.integer_results]
    with graph.graph.inserting_after(node):
        quantized = graph.graph.call_function(operators.quantize_per_tensor.default, (node, *parameters))
    for reader in readers:
        with graph.graph.inserting_before(reader):
            dequantized = graph.graph.call_function(operators.dequantize_per_tensor.default, (quantized, *parameters))
        reader.replace_input_with(node, dequantized)


def _quantize_weight(graph: fx.GraphModule, layer: fx.Node, number: int, scale: Any, recipe: QuantizationRecipe) -> None:
    """Replace the layer's weight by int8 constants with a dequantize, for every layer that reads the same weight."""
    import torch

    operators: Any = torch.ops.quantized_decomposed
    source: Any = layer.args[1]
    value = graph.get_parameter(str(source.target)).detach().numpy()
    scale = weight_scales(value, 0, recipe) if scale is None else scale
    limit = weight_limit(recipe)
    constants = {
        "integers": torch.from_numpy(quantize_weight(value, scale, 0, limit)),
        "scale": torch.from_numpy(scale),
        "zero_point": torch.zeros(len(scale), dtype=torch.int64),
    }
    for name, constant in constants.items():
        graph.register_buffer(f"weight_{number}_{name}", constant)
    reads = [node for node in graph.graph.nodes if node.op == "get_attr" and node.target == source.target]
    for read in reads:
        for reader in list(read.users):
            with graph.graph.inserting_before(reader):
                tensors = [graph.graph.get_attr(f"weight_{number}_{name}") for name in constants]
                arguments: Any = (*tensors, 0, -limit, limit, torch.int8)
                dequantized = graph.graph.call_function(operators.dequantize_per_channel.default, arguments)
            reader.replace_input_with(read, dequantized)
        graph.graph.erase_node(read)
