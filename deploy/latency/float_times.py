"""The cost of one layer of an int8 model in float or with activations of 16 bits, measured on the whole model. Host only.

Not of the layer alone: a layer in float breaks what an engine fuses around it, and takes conversions before and after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import onnx

from deploy.latency.stopwatch import Stopwatch, Time, quantize_uncalibrated
from deploy.measure.timing import ratio_interval
from deploy.qdq.placement import NO_LAYERS, place
from deploy.qdq.wide import widened
from profiles.quantization import QuantizationRecipe

LEAST_PASSES = 5
"""Of which all ratios but the outermost are an interval."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """Milliseconds of a model all in int8, and the extra ones with one layer in another form.

    Attributes:
        longer_ms: in float; negative where float is faster.
        wide_ms: reading activations of 16 bits.
        faster_wide: layers of both that take less with 16 bits than in float by the interval of passes in turns.
    """

    whole_ms: float
    longer_ms: Mapping[str, float]
    wide_ms: Mapping[str, float]
    faster_wide: frozenset[str]


def float_layer_costs_ms(
    model: onnx.ModelProto,
    recipe: QuantizationRecipe,
    layers: Sequence[str],
    stopwatch: Stopwatch,
    wide: Sequence[str] = (),
) -> LayerCosts:
    """Measure the float ``model`` all in int8, with each of ``layers`` in float, and each of ``wide`` with 16 bits.

    Scales are made up: time does not depend on them.

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
    return LayerCosts(
        whole_ms=whole,
        longer_ms=floats,
        wide_ms=sixteen,
        faster_wide=frozenset(
            layer for layer in wide if layer in floats and _is_faster(times[wider[layer]], times[names[layer]])
        ),
    )


def _is_faster(one: Time, other: Time) -> bool:
    """Return whether the passes of one take less than those of the other, by the interval of their ratios."""
    passes = len(one.passes_ms)
    if passes < LEAST_PASSES or passes != len(other.passes_ms):
        return False
    return ratio_interval(one.passes_ms, other.passes_ms)[1] < 1


def _with_float_layers(model: onnx.ModelProto, recipe: QuantizationRecipe, kept: Mapping[str, str]) -> onnx.ModelProto:
    return quantize_uncalibrated(model, recipe, place(model, recipe, kept))


def _with_wide_layer(model: onnx.ModelProto, recipe: QuantizationRecipe, layer: str) -> onnx.ModelProto:
    return quantize_uncalibrated(model, recipe, widened(model, place(model, recipe), [layer], recipe))
