"""Shuffles: tensors that are concatenated and then only moved, again and again, as in ShuffleNet.

Where a runtime takes integers through a concatenation and the moves behind it, it can do so only if all branches have one
scale: then the pairs before the concatenation are enough, and each one behind it would cost a pass over the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from deploy.onnx_graph.graph import Graph

MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Gather", "Split"})
"""Operators that put values elsewhere and leave each as it is."""


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Tensors that have one scale.

    Attributes:
        enters: those that something else makes, in the graph's order; their values are all that the others hold.
        inside: those that concatenations and moves make of them.
    """

    enters: tuple[str, ...]
    inside: frozenset[str]


def find_shuffles(graph: Graph, integer: set[str]) -> list[Shuffle]:
    """The shuffles among the nodes named in ``integer``, each with at least one concatenation that is moved."""
    moved = [n for n in graph.nodes if n.op_type == "Concat" and n.name in integer and _is_moved(graph, n, integer)]
    groups: list[set[str]] = []
    for node in moved:
        sources = [_source(graph, str(tensor), integer) for tensor in node.input]
        group = {t for tensor in (*sources, str(node.output[0])) for t in _behind(graph, tensor, integer)}
        for other in [g for g in groups if g & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    makers = {str(n.output[0]) for n in moved}
    return [_shuffle(graph, group, makers, integer) for group in groups]


def _is_moved(graph: Graph, node: onnx.NodeProto, integer: set[str]) -> bool:
    return any(_moves_integers(reader, integer) for reader in graph.consumers(node.output[0]))


def _moves_integers(node: onnx.NodeProto | None, integer: set[str]) -> bool:
    return node is not None and node.op_type in MOVES and node.name in integer


def _source(graph: Graph, tensor: str, integer: set[str]) -> str:
    """What integer moves made ``tensor`` of; itself where none did."""
    while (maker := graph.producer(tensor)) is not None and _moves_integers(maker, integer):
        tensor = str(maker.input[0])
    return tensor


def _behind(graph: Graph, tensor: str, integer: set[str]) -> Iterator[str]:
    """``tensor`` and all that integer moves make of it."""
    yield tensor
    for reader in graph.consumers(tensor):
        if _moves_integers(reader, integer) and reader.input[0] == tensor:
            for made in reader.output:
                yield from _behind(graph, str(made), integer)


def _shuffle(graph: Graph, group: set[str], concatenated: set[str], integer: set[str]) -> Shuffle:
    inside = frozenset(t for t in group if t in concatenated or _moves_integers(graph.producer(t), integer))
    order = [*graph.inputs, *(str(o) for n in graph.nodes for o in n.output)]
    return Shuffle(enters=tuple(t for t in order if t in group - inside), inside=inside)
