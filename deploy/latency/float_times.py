"""The cost of one layer of an int8 model in float or with activations of 16 bits, measured on the whole model. Host only.

Not of the layer alone: a layer in float breaks what an engine fuses around it, and takes conversions before and after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import onnx

from deploy.latency.stopwatch import Stopwatch, quantize_uncalibrated
from deploy.qdq.placement import NO_LAYERS, place
from deploy.qdq.wide import widened
from profiles.quantization import QuantizationRecipe


def float_layer_costs_ms(
    model: onnx.ModelProto,
    recipe: QuantizationRecipe,
    layers: Sequence[str],
    stopwatch: Stopwatch,
    wide: Sequence[str] = (),
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Measure the float ``model`` all in int8, and the extra milliseconds with one layer in another form.

    Returns milliseconds all in int8, and the extra ones with each of ``layers`` in float, and each of ``wide`` in 16 bits.

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
    wider = {layer: f"with 16 bits: {stands_for} {layer}" for layer in wide}
    times = stopwatch.times(
        {
            **{names[layer]: partial(_with_float_layers, model, recipe, float_layers[layer]) for layer in float_layers},
            **{wider[layer]: partial(_with_wide_layer, model, recipe, layer) for layer in wide},
        }
    )
    whole = times[names[""]].least_ms
    floats, sixteen = ({n: times[of[n]].least_ms - whole for n in asked} for of, asked in ((names, layers), (wider, wide)))
    return whole, floats, sixteen


def _with_float_layers(model: onnx.ModelProto, recipe: QuantizationRecipe, kept: Mapping[str, str]) -> onnx.ModelProto:
    return quantize_uncalibrated(model, recipe, place(model, recipe, kept))


def _with_wide_layer(model: onnx.ModelProto, recipe: QuantizationRecipe, layer: str) -> onnx.ModelProto:
    return quantize_uncalibrated(model, recipe, widened(model, place(model, recipe), [layer], recipe))
