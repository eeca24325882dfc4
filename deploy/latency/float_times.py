"""The cost of leaving one layer of an int8 model in float, measured on the whole model. Host only.

Not of the layer alone: a layer in float breaks what an engine fuses around it, and takes conversions before and after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import onnx

from deploy.latency.stopwatch import Stopwatch, quantize_uncalibrated
from deploy.qdq.placement import NO_LAYERS, place
from profiles.quantization import QuantizationRecipe


def float_layer_costs_ms(
    model: onnx.ModelProto, recipe: QuantizationRecipe, layers: Sequence[str], stopwatch: Stopwatch
) -> tuple[float, dict[str, float]]:
    """Measure the float ``model`` all in int8, and the extra milliseconds with each of ``layers`` in float.

    Negative where float is faster. Scales are made up: time does not depend on them.

    Args:
        layers: names of its nodes.
        stopwatch: of an int8 engine, taking models as they are.

    Raises:
        EngineError: the runtime refuses a model.
    """
    stands_for = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:20]
    float_layers = {"": NO_LAYERS, **{layer: {layer: "to be timed"} for layer in layers}}
    names = {layer: f"in float: {stands_for} {layer}" for layer in float_layers}
    times = stopwatch.times(
        {names[layer]: partial(_with_float_layers, model, recipe, float_layers[layer]) for layer in float_layers}
    )
    whole = times[names[""]].least_ms
    return whole, {layer: times[names[layer]].least_ms - whole for layer in layers}


def _with_float_layers(model: onnx.ModelProto, recipe: QuantizationRecipe, kept: Mapping[str, str]) -> onnx.ModelProto:
    return quantize_uncalibrated(model, recipe, place(model, recipe, kept))
