"""Features of samples: what a float model's layers read, at several depths. Host only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx

from deploy.engines.inputs import Inputs
from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import run_batches, split_batches

LAYERS = ("Conv", "Gemm", "MatMul")
PLACES = (0.0, 1 / 3, 2 / 3, 1.0)
"""Depths as shares of the layers: the first reads the input itself, the last what the head reads."""


def feature_tensors(model: onnx.ModelProto) -> dict[str, int]:
    """Return the float tensors that ``PLACES`` of a model's layers read, with the axis of their channels.

    Depths differ in what they see: what a classifier's head reads hardly moves where pictures grow darker, as it was trained
    to; its first layers do, whose ranges then clip. Of a model without layers the first output.
    """
    graph = Graph(model)
    layers = [n for n in graph.nodes if n.op_type in LAYERS and _has_weights(graph, n) and graph.is_activation(n.input[0])]
    if not layers:
        return {graph.outputs[0]: -1}
    chosen = dict.fromkeys(round(place * (len(layers) - 1)) for place in PLACES)
    return {str(layers[at].input[0]): 1 if layers[at].op_type == "Conv" else -1 for at in chosen}


def _has_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether a layer has learned weights: the mean of a distribution in a detector's decode has none."""
    return graph.is_constant(node.input[1]) and not (node.op_type == "Conv" and graph.shape(node.input[1])[0] == 1)


def features(model: onnx.ModelProto, batches: Iterable[Inputs]) -> list[npt.NDArray[np.float32]]:
    """Compute the features of samples at each depth, (samples, width) each: maps and tokens averaged over their places.

    Raises:
        ValueError: the model has other inputs, or a feature is not finite.
    """
    tensors = feature_tensors(model)
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in tensors}
    for count, values in run_batches(model, [*tensors], split_batches(model, tensors, batches)):
        for name, axis in tensors.items():
            found = np.moveaxis(np.asarray(values[name], np.float32), axis, -1)
            parts[name].append(found.reshape(count, -1, found.shape[-1]).mean(axis=1))
    result = {name: np.concatenate(part) for name, part in parts.items()}
    for name, found in result.items():
        if not np.isfinite(found).all():
            raise ValueError(f"tensor {name}: features hold NaN or infinity")
    return list(result.values())
