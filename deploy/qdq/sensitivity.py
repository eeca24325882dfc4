"""How much each layer alone costs when it runs in integers, by the float model's own outputs: no labels needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from deploy.onnx_graph.graph import Graph
from deploy.onnx_graph.run import run_batches
from deploy.qdq.insert import Scales, insert
from deploy.qdq.placement import Placement
from profiles.quantization import QuantizationRecipe


def sensitivities(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
    batches: Iterable[npt.NDArray[Any]],
) -> dict[str, float]:
    """For each placed layer (an ONNX node's name) the squared error of the outputs over their variance, largest first.

    Weight and input of that layer are quantised, all else is float. Outputs count alike whatever their size.

    Args:
        batches: calibration samples, arrays of shape (samples, ...); kept in memory, so a few.
    """
    few = list(batches)
    graph = Graph(model)
    expected = _outputs(model, graph.outputs, few)
    weights = {weight.tensor: weight for weight in placement.weights}
    activations = {activation.tensor: replace(activation, pair=True) for activation in placement.activations}
    found: dict[str, float] = {}
    for node in graph.nodes:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None:
            continue
        reads = tuple(activations[t] for t in node.input[:1] if t in activations)
        alone = insert(model, Placement(activations=reads, weights=(weight,), kept_float=()), scales, recipe)
        found[node.name] = _apart(expected, _outputs(alone, graph.outputs, few))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _outputs(
    model: onnx.ModelProto, names: list[str], batches: list[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float64]]:
    parts = [values for _, values in run_batches(model, names, batches)]
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in names}


def _apart(expected: dict[str, npt.NDArray[np.float64]], found: dict[str, npt.NDArray[np.float64]]) -> float:
    return float(np.mean([np.square(found[n] - e).mean() / max(e.var(), 1e-30) for n, e in expected.items()]))
