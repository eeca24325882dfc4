"""Channel shuffles, as in ShuffleNet: concatenations followed by operators that only move values.

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
    """Tensors that share one scale.

    Attributes:
        inputs: tensors that other operators compute, in the graph's order; the others hold their values alone.
        results: outputs of the concatenations and moves.
    """

    inputs: tuple[str, ...]
    results: frozenset[str]


def find_shuffles(graph: Graph, integer: set[str]) -> list[Shuffle]:
    """Find the shuffles among the nodes named in ``integer``, each with at least one concatenation that is moved."""
    moved = [n for n in graph.nodes if n.op_type == "Concat" and n.name in integer and _is_moved(graph, n, integer)]
    groups: list[set[str]] = []
    for node in moved:
        sources = [_move_source(graph, str(tensor), integer) for tensor in node.input]
        group = {t for tensor in (*sources, str(node.output[0])) for t in _moved_results(graph, tensor, integer)}
        for other in [g for g in groups if g & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    results = {str(n.output[0]) for n in moved}
    return [_shuffle(graph, group, results, integer) for group in groups]


def _is_moved(graph: Graph, node: onnx.NodeProto, integer: set[str]) -> bool:
    return any(_moves_integers(reader, integer) for reader in graph.consumers(node.output[0]))


def _moves_integers(node: onnx.NodeProto | None, integer: set[str]) -> bool:
    return node is not None and node.op_type in MOVES and node.name in integer


def _move_source(graph: Graph, tensor: str, integer: set[str]) -> str:
    """Return the tensor at the start of the integer moves before ``tensor``; itself where there are none."""
    while (producer := graph.producer(tensor)) is not None and _moves_integers(producer, integer):
        tensor = str(producer.input[0])
    return tensor


def _moved_results(graph: Graph, tensor: str, integer: set[str]) -> Iterator[str]:
    """Yield ``tensor`` and all results of integer moves behind it."""
    yield tensor
    for reader in graph.consumers(tensor):
        if _moves_integers(reader, integer) and reader.input[0] == tensor:
            for output in reader.output:
                yield from _moved_results(graph, str(output), integer)


def _shuffle(graph: Graph, group: set[str], concatenated: set[str], integer: set[str]) -> Shuffle:
    results = frozenset(t for t in group if t in concatenated or _moves_integers(graph.producer(t), integer))
    order = [*graph.inputs, *(str(o) for n in graph.nodes for o in n.output)]
    return Shuffle(inputs=tuple(t for t in order if t in group - results), results=results)
