"""Captured programs with packed weights: indices, points and ranges beside the decoded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from deploy.export.to_onnx import to_graph_module, with_parameters
from deploy.packing.indices import PackedTensor, pack_indices


@final
@dataclass(frozen=True, kw_only=True)
class PackableWeight:
    """Weight that could be packed.

    Attributes:
        is_end: whether no other candidate comes before it in the program, or none after it.
    """

    name: str
    size: int
    is_end: bool


@final
class PackedProgram(nn.Module):
    """Captured program, batch norms folded, that runs with its decoded weights as any float program does.

    Args:
        program: its parameters become this module's.
        bits: of the indices of each packed weight, by parameter.
        even: the packed weights whose points are evenly spaced, and not stored.
    """

    def __init__(self, program: ExportedProgram, bits: Mapping[str, int], bucket: int, even: frozenset[str]) -> None:
        super().__init__()
        self._program, self._bits, self._bucket, self._even = program, dict(bits), bucket, even
        self.body = to_graph_module(program)
        self.stored = nn.ModuleList(_Stored(self.body.get_parameter(name), bits[name], bucket) for name in bits)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Run the program on its inputs with the decoded weights."""
        return self.body(*inputs, **named)

    def adopt(self, packed: Mapping[str, PackedTensor]) -> None:
        """Load every packed weight; the program then runs with the decoded ones."""
        with torch.no_grad():
            for name, stored in zip(self._bits, self.stored, strict=True):
                values, weight = packed[name], self.body.get_parameter(name)
                weight.copy_(torch.from_numpy(values.unpack()))
                arrays = {"indices": values.symbols(), "points": values.points, "low": values.low, "span": values.span}
                for key, value in arrays.items():
                    stored.get_buffer(key).copy_(torch.from_numpy(np.array(value)))

    def packed(self) -> dict[str, PackedTensor]:
        """Return every packed weight; decoded it is the program's."""
        return {name: self._one(name, stored) for name, stored in zip(self._bits, self.stored, strict=True)}

    def float_program(self) -> ExportedProgram:
        """Return the program with its weights as they are."""
        return with_parameters(self._program, self.body)

    def candidates(self) -> list[PackableWeight]:
        """List the float parameters with two axes or more that the program reads, in the order of their layers."""
        nodes = list(self.body.graph.nodes)
        fed = _reached({node for node in nodes if node.op == "placeholder"}, _users)
        layers: dict[str, set[fx.Node]] = {}
        for node in nodes:
            if node.op == "get_attr" and self._is_weight(str(node.target)):
                layers.setdefault(str(node.target), set()).update(_layers(node, fed))
        every = {node for readers in layers.values() for node in readers}
        between = _reached(every, _users) & _reached(every, lambda node: node.all_input_nodes)
        place = {node: number for number, node in enumerate(nodes)}
        ordered = sorted(layers, key=lambda name: min((place[node] for node in layers[name]), default=len(nodes)))
        sizes = {name: self.body.get_parameter(name).numel() for name in layers}
        return [PackableWeight(name=name, size=sizes[name], is_end=not layers[name] <= between) for name in ordered]

    def _is_weight(self, name: str) -> bool:
        parameter = dict(self.body.named_parameters()).get(name)
        return parameter is not None and parameter.dim() > 1 and parameter.dtype == torch.float32

    def _one(self, name: str, stored: nn.Module) -> PackedTensor:
        indices, points, low, span = (stored.get_buffer(key).numpy() for key in ("indices", "points", "low", "span"))
        return PackedTensor(
            shape=tuple(self.body.get_parameter(name).shape),
            bits=self._bits[name],
            bucket=self._bucket,
            points=points,
            low=low,
            span=span,
            indices=pack_indices(indices, self._bits[name]),
            uniform=name in self._even,
        )


@final
class _Stored(nn.Module):
    """Buffers of a packed weight: indices, points and ranges."""

    def __init__(self, weight: Tensor, bits: int, bucket: int) -> None:
        super().__init__()
        buckets = -(-weight.numel() // bucket)
        self.register_buffer("indices", torch.zeros(weight.numel(), dtype=torch.uint8))
        self.register_buffer("points", torch.zeros(2**bits))
        self.register_buffer("low", torch.zeros(buckets))
        self.register_buffer("span", torch.zeros(buckets))


def _users(node: fx.Node) -> list[fx.Node]:
    return list(node.users)


def _layers(weight: fx.Node, fed: set[fx.Node]) -> set[fx.Node]:
    """List the nodes where a weight meets an input, behind nodes of the weight alone (its transpose)."""
    met: set[fx.Node] = set()
    left = _users(weight)
    while left:
        node = left.pop()
        if node in fed:
            met.add(node)
        else:
            left += _users(node)
    return met


def _reached(starts: set[fx.Node], onward: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    """Return all nodes reachable from ``starts``, themselves only where they are reached."""
    nodes: set[fx.Node] = set()
    left = [node for start in starts for node in onward(start)]
    while left:
        node = left.pop()
        if node not in nodes:
            nodes.add(node)
            left += onward(node)
    return nodes
