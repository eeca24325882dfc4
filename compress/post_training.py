"""Post-training quantisation: a float module, calibration samples, a recipe -> placement and scales.

It needs no training and no labels, so it stands in every report as what is free; quantisation-aware
training starts from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import onnx

from calib.ranges import METHODS
from compress.data import Samples
from compress.surgery import Quantize
from deploy.bias import correct_biases
from deploy.graph import Graph
from deploy.observe import observe
from deploy.placement import place
from deploy.qdq import Scales, insert, levels, scale_of_range, scales_of_weight
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION

CHUNK = 64


def calibrate(model: onnx.ModelProto, samples: Samples, recipe: str, method: str) -> Quantize:
    """Placement for a float ``model``, and the scale of each placed activation over all ``samples``.

    Raises:
        UserError: a tensor held NaN or infinity.
    """
    rules = QUANTIZATION[recipe]
    placement = place(model, rules)
    own = [a.tensor for a in placement.activations if a.like is None]
    try:
        histograms = observe(model, own, _inputs(samples))
    except ValueError as error:
        raise UserError(f"calibration: {error}") from None
    scales: dict[str, tuple[float, int]] = {}
    for activation in placement.activations:
        if activation.like is not None and activation.like in scales:
            scales[activation.tensor] = scales[activation.like]
            continue
        histogram = histograms[activation.tensor]
        low, high = METHODS[method](histogram, levels(histogram.minimum, rules))
        scales[activation.tensor] = scale_of_range(low, high, rules)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])
    return Quantize(recipe=recipe, input_shape=shape, placement=placement, activations=scales)


def apply(model: onnx.ModelProto, quantize: Quantize, samples: Samples | None = None) -> onnx.ModelProto:
    """The Q/DQ model of ``calibrate``'s result, weights rounded to the nearest integers; biases corrected by ``samples``."""
    graph, rules = Graph(model), QUANTIZATION[quantize.recipe]
    weights = {w.tensor: scales_of_weight(graph.constant(w.tensor), w.axis, rules) for w in quantize.placement.weights}
    scales = Scales(activations=quantize.activations, weights=weights)
    if samples is not None:
        model = correct_biases(model, quantize.placement, scales, rules, _inputs(samples))
    return insert(model, quantize.placement, scales, rules)


def _inputs(samples: Samples) -> Iterator[npt.NDArray[Any]]:
    for batch in samples.batches(CHUNK):
        yield batch.inputs
