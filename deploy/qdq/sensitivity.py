"""Sensitivity of each layer to quantisation, from the float model's own outputs: no labels needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from deploy.engines.inputs import Inputs
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
    batches: Iterable[Inputs],
    layers: Collection[str] | None = None,
) -> dict[str, float]:
    """Measure each placed layer's sensitivity: squared error of the outputs over their variance, largest first.

    Weight and input of one layer are quantised, all else is float. Outputs have equal weight, whatever their size.

    Args:
        batches: calibration samples, arrays of shape (samples, ...); kept in memory, so a few.
        layers: names of nodes; all placed layers without.

    Returns:
        Sensitivity by the name of the layer's ONNX node.
    """
    samples = list(batches)
    graph = Graph(model)
    expected = _outputs(model, graph.outputs, samples)
    weights = {weight.tensor: weight for weight in placement.weights}
    activations = {activation.tensor: replace(activation, pair=True) for activation in placement.activations}
    errors: dict[str, float] = {}
    for node in graph.nodes:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or (layers is not None and node.name not in layers):
            continue
        inputs = tuple(activations[t] for t in node.input[:1] if t in activations)
        quantized = insert(model, Placement(activations=inputs, weights=(weight,), kept_float=()), scales, recipe)
        errors[node.name] = _relative_error(expected, _outputs(quantized, graph.outputs, samples))
    return dict(sorted(errors.items(), key=lambda entry: -entry[1]))


def _outputs(model: onnx.ModelProto, names: list[str], batches: list[Inputs]) -> dict[str, npt.NDArray[np.float64]]:
    parts = [values for _, values in run_batches(model, names, batches)]
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in names}


def _relative_error(expected: dict[str, npt.NDArray[np.float64]], actual: dict[str, npt.NDArray[np.float64]]) -> float:
    return float(np.mean([np.square(actual[n] - e).mean() / max(e.var(), 1e-30) for n, e in expected.items()]))
