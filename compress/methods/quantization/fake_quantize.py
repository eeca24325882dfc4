"""Fake quantisation: quantisers of Brevitas at the tensors of a placement, inside the captured program.

What is trained here is what is exported: the program's tensors have the names of the ONNX file's, and
scales and zero points are read from these modules when Q/DQ pairs are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from deploy.export.to_onnx import tensor_nodes, to_graph_module, with_parameters
from deploy.qdq.insert import Scales, activation_limits, weight_scales
from deploy.qdq.placement import Placement
from profiles.quantization import QuantizationRecipe

SMALLEST_SCALE = 1e-8


@final
class Quantizer(nn.Module):
    """Fake quantiser with a learned scale; its gradient is that of the straight-through estimator.

    The scale's gradient is scaled by 1 / sqrt(elements x largest integer), which lets it move at the pace of the
    weights under one learning rate (LSQ, Esser et al. 2020, section 2.2).

    Args:
        scale: first scale, one element or one a channel, shaped to broadcast.
        zero_point: fixed.
        bits: integers of this width, signed and narrow for weights.
    """

    def __init__(self, scale: Tensor, zero_point: int, *, bits: int, signed: bool, narrow: bool) -> None:
        # here: with it comes torch's compiler, half of the time in which a command starts
        from brevitas.core.function_wrapper import RoundSte, TensorClamp
        from brevitas.core.quant import IntQuant
        from brevitas.core.scaling import ParameterScaling

        super().__init__()
        self.scaling = ParameterScaling(scale, scaling_min_val=SMALLEST_SCALE)
        self.rounding = IntQuant(
            narrow_range=narrow,
            signed=signed,
            input_view_impl=nn.Identity(),
            float_to_int_impl=RoundSte(),
            tensor_clamp_impl=TensorClamp(),
        )
        self.zero_point: Tensor
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self.bits: Tensor
        self.register_buffer("bits", torch.tensor(float(bits)))
        self._largest = 2.0 ** (bits - 1)

    def scale(self) -> Tensor:
        """Return the current scale, in its own shape."""
        scale: Tensor = self.scaling(torch.empty(0))
        return scale

    def forward(self, values: Tensor) -> Tensor:
        """Round ``values`` to the grid of the scale, straight through in the backward pass; same shape."""
        scale = self.scale()
        if self.training:
            share = (values.numel() / scale.numel() * self._largest) ** -0.5
            scale = (scale - scale * share).detach() + scale * share
        rounded: Tensor = self.rounding(scale, self.zero_point, self.bits, values)
        return rounded


@final
class QuantizedProgram(nn.Module):
    """Captured program with fake quantisers; trains and runs as the module it was captured from.

    Args:
        program: the float program; its parameters become this module's.
        scales: first scales of the activations; those of the weights are taken from the weights.
    """

    def __init__(
        self,
        program: ExportedProgram,
        placement: Placement,
        scales: Scales,
        recipe: QuantizationRecipe,
    ) -> None:
        super().__init__()
        self._program, self.placement, self.recipe = program, placement, recipe
        self._initial = scales
        self.graph = to_graph_module(program)
        names = tensor_nodes(self.graph.graph)
        self._activations = self._place_activations(names)
        self._weights = self._place_weights(names)
        self.graph.graph.lint()
        self.graph.recompile()

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Run the program on its inputs with fake quantisation."""
        return self.graph(*inputs, **named)

    def __repr__(self) -> str:
        """Say in a line what is quantised; ``graph`` prints the program."""
        return f"QuantizedProgram({len(self._weights)} weights and {len(self._activations)} activations in int8)"

    def adopt(self, tensors: Mapping[str, npt.NDArray[Any]], scales: Scales) -> None:
        """Load weights and biases by name, and the weights' scales; names that the program has not are ignored."""
        own = dict(self.graph.named_parameters())
        with torch.no_grad():
            for name, value in tensors.items():
                if name in own and own[name].shape == value.shape:
                    own[name].copy_(torch.from_numpy(np.array(value)))
            for name, module in self._weights.items():
                scale = self._quantizer(module).scaling.value
                scale.copy_(torch.from_numpy(scales.weights[name]).reshape(scale.shape))

    def scales(self) -> Scales:
        """Return the trained scales; those of tensors that only the ONNX file has stay as they were measured."""
        activations = dict(self._initial.activations)
        for tensor, module in self._activations.items():
            quantizer = self._quantizer(module)
            activations[tensor] = float(quantizer.scale().detach()), int(quantizer.zero_point)
        taken = [a for a in self.placement.activations if not a.pair and a.source in self._activations]
        activations |= {a.tensor: activations[a.source] for a in taken}
        weights = {t: self._quantizer(m).scale().detach().flatten().numpy() for t, m in self._weights.items()}
        return Scales(activations=activations, weights=weights)

    def float_program(self) -> ExportedProgram:
        """Return the program without quantisers, holding the trained weights."""
        return with_parameters(self._program, self.graph)

    def _quantizer(self, name: str) -> Quantizer:
        module = self.graph.get_submodule(name)
        assert isinstance(module, Quantizer)
        return module

    def _place_activations(self, names: dict[str, fx.Node]) -> dict[str, str]:
        smallest, _ = activation_limits(self.recipe)
        placed: dict[str, str] = {}
        for activation in self.placement.pairs:
            node = names.get(activation.tensor)
            if node is None:
                continue
            owner = activation.like if activation.like in placed else None
            module = placed[owner] if owner else f"activation_quantizer_{len(placed)}"
            if owner is None:
                scale, zero_point = self._initial.activations[activation.tensor]
                quantizer = Quantizer(
                    torch.tensor(scale), zero_point, bits=activation.bits, signed=smallest < 0, narrow=False
                )
                self.graph.add_submodule(module, quantizer)
            placed[activation.tensor] = module
            with self.graph.graph.inserting_after(node):
                quantized = self.graph.graph.call_module(module, (node,))
            quantized.meta = dict(node.meta)
            _reroute(node, quantized, outputs=bool(self.recipe.integer_results))
        return placed

    def _place_weights(self, names: dict[str, fx.Node]) -> dict[str, str]:
        placed: dict[str, str] = {}
        for weight in self.placement.weights:
            layer = names[weight.layer]
            source = layer.args[1]
            assert isinstance(source, fx.Node)
            value = self.graph.get_parameter(str(source.target)).detach()
            scale = torch.from_numpy(weight_scales(value.numpy(), 0, self.recipe))
            module = f"weight_quantizer_{len(placed)}"
            shape = (-1, *[1] * (value.dim() - 1))
            quantizer = Quantizer(scale.reshape(shape), 0, bits=self.recipe.weight_bits, signed=True, narrow=True)
            self.graph.add_submodule(module, quantizer)
            placed[weight.tensor] = module
            # A module that is called twice reads its weight twice.
            for read in [n for n in self.graph.graph.nodes if n.op == "get_attr" and n.target == source.target]:
                with self.graph.graph.inserting_after(read):
                    quantized = self.graph.graph.call_module(module, (read,))
                _reroute(read, quantized)
        return placed


def _reroute(node: fx.Node, through: fx.Node, *, outputs: bool = False) -> None:
    """Route every reader of ``node`` through ``through``, which reads ``node``; the graph's output only if ``outputs``."""

    def moved(reader: fx.Node) -> bool:
        return reader is not through and (outputs or reader.op != "output")

    node.replace_all_uses_with(through, delete_user_cb=moved)
