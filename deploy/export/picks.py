"""One of three taken before the axes are moved rather than after: queries, keys and values of an attention. Host only.

An attention makes (samples, tokens, 3, heads, width) of one linear layer, moves the three to the front and takes each. With
the samples inside that is five dimensions of which NCNN has four, as its one sample may only be in front. Taken first, each
is of four dimensions, samples in front.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy.onnx_graph.graph import Graph, attribute


def pick_before_moving(model: onnx.ModelProto) -> None:
    """Write ``x.permute(k, ...)[i]`` as ``x.select(k, i).permute(...)`` wherever all readers take a single one so."""
    graph = Graph(model)
    written: dict[str, list[onnx.NodeProto]] = {}
    dropped: set[str] = set()
    for move in graph.nodes:
        permutation = list(attribute(move, "perm", []))
        readers = graph.consumers(move.output[0]) if move.op_type == "Transpose" else []
        picks = [_picked(graph, reader) for reader in readers]
        if not picks or not permutation or permutation[0] == 0 or None in picks or move.output[0] in graph.outputs:
            continue
        dropped.add(move.output[0])
        for reader, pick in zip(readers, picks, strict=True):
            assert pick is not None
            index, result = pick
            dropped |= {reader.output[0], result}
            last = result if result != reader.output[0] else reader.output[0]
            written[reader.output[0]] = _taken(model, move.input[0], permutation, index, last)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes += written.get(node.output[0], [] if node.output[0] in dropped else [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _picked(graph: Graph, reader: onnx.NodeProto) -> tuple[int, str] | None:
    """Return which one of the first axis a node takes, and the tensor without that axis; None where it does otherwise."""
    constants = [graph.constant(name) if graph.is_constant(name) else None for name in reader.input[1:]]
    if not constants or any(each is None for each in constants):
        return None
    values = [np.asarray(each).tolist() for each in constants]
    if reader.op_type == "Gather" and attribute(reader, "axis", 0) == 0 and isinstance(values[0], int):
        return (values[0], reader.output[0]) if values[0] >= 0 else None
    squeeze = graph.only_consumer(reader.output[0])
    if reader.op_type != "Slice" or len(values) < 3 or squeeze is None or squeeze.op_type != "Squeeze":
        return None
    (start, *more), (end, *_), axes = values[:3]
    is_first = len(squeeze.input) > 1 and graph.is_constant(squeeze.input[1]) and not graph.constant(squeeze.input[1]).any()
    if more or axes != [0] or start < 0 or end != start + 1 or not is_first or graph.constant(squeeze.input[1]).size != 1:
        return None
    return start, squeeze.output[0]


def _taken(model: onnx.ModelProto, tensor: str, permutation: list[int], index: int, result: str) -> list[onnx.NodeProto]:
    """Take ``index`` of the axis that was to be the first, and move the others as they were to be."""
    axis = permutation[0]
    others = [each - (each > axis) for each in permutation[1:]]
    names = [f"{result}/{part}" for part in ("start", "end", "axis")]
    for name, value in zip(names, (index, index + 1, axis), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([value], np.int64), name))
    cut, one = f"{result}/cut", f"{result}/one"
    return [
        helper.make_node("Slice", [tensor, *names], [cut], name=cut),
        helper.make_node("Squeeze", [cut, names[2]], [one], name=one),
        helper.make_node("Transpose", [one], [result], name=result, perm=others),
    ]
