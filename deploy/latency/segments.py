"""Splits of an ONNX graph into runs of nodes that can be models of their own. Host only.

A run ends where one tensor alone is alive, behind what a runtime fuses into the layer before (batch norm, activation,
residual add), so that each is timed as it will run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.onnx_graph.graph import Graph

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FUSED = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "BatchNormalization"}
)


def split_at_cuts(graph: Graph) -> list[list[int]]:
    """Split the nodes, by index, at places where one tensor alone is alive; each run has a layer in it."""
    segments: list[list[int]] = [[]]
    producers = {o: i for i, node in enumerate(graph.nodes) for o in node.output if o}
    order = {**dict.fromkeys(graph.inputs, -1), **producers}
    for index in range(len(graph.nodes)):
        segments[-1].append(index)
        if _alone(graph, order, index) and index + 1 < len(graph.nodes):
            segments.append([])
    joined: list[list[int]] = []
    waiting: list[int] = []
    for run in segments:
        kinds = {graph.nodes[i].op_type for i in run}
        if joined and not waiting and kinds <= FUSED:
            joined[-1] += run
        elif kinds & COMPUTE:
            joined.append(waiting + run)
            waiting = []
        else:
            waiting += run
    if waiting and joined:
        joined[-1] += waiting
    return joined or [waiting]


def split_by_layer(graph: Graph, nodes: Sequence[int]) -> list[list[int]]:
    """Split nodes before every layer, and before operators that no runtime fuses into the layer before."""
    parts: list[list[int]] = []
    open_part = False
    for index in nodes:
        kind = graph.nodes[index].op_type
        if not parts or (kind in COMPUTE and open_part):
            parts.append([])
            open_part = False
        parts[-1].append(index)
        open_part = open_part or kind in COMPUTE
    return parts


def _alone(graph: Graph, order: Mapping[str, int], index: int) -> bool:
    """Return whether a single tensor computed up to ``index`` is read after it."""
    alive = set()
    for later in range(index + 1, len(graph.nodes)):
        alive |= {t for t in graph.nodes[later].input if t in order and order[t] <= index}
        if len(alive) > 1:
            return False
    alive |= {o for o in graph.outputs if order[o] <= index}
    return len(alive) <= 1
