"""Mixed precision: which layers of an int8 model stay float or read activations of 16 bits, by error and measured time.

Each layer's error is that of the model's own outputs with the layer alone in int8; its price what the whole model takes
longer, on the device's engine, with that layer alone in another form. Chosen are the forms that take most error away for a
millisecond, until half of the error is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
import onnx

from compress.data import Samples
from compress.methods.cost_model import FloatPrices
from deploy.qdq.insert import Scales
from deploy.qdq.placement import Placement
from deploy.qdq.sensitivity import sensitivities
from profiles.quantization import QuantizationRecipe

SENSED = 16
"""Samples on which each layer's own cost is measured, a run of the model each."""
HURTING_SHARE, MOST_KEPT = 0.5, 0.25
"""Layers that leave int8: the fewest that make this share of the error, and at most this share of them."""

MOST_PRICED, MOST_WIDE = 24, 8
"""Layers that are timed in float, and with 16 bits: an engine each."""
NOTICED = 0.005
"""Share of the model's time below which a difference is none."""

Price = Callable[[Sequence[str], Sequence[str]], FloatPrices | None]
"""What each of some layers costs in float on the device, and each of others with activations of 16 bits."""
Form = Literal["float", "16 bits"]
WideScales = Callable[[Sequence[str]], tuple[Placement, Scales]]
"""Placement and scales with 16 bits where some layers read."""


@final
@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Layers that leave int8, each with the reason.

    Attributes:
        kept: that stay float.
        wide: whose activations have 16 bits.
        notes: what was measured and not chosen.
    """

    kept: Mapping[str, str] = field(default_factory=dict)
    wide: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_mixture(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Scales,
    rules: QuantizationRecipe,
    samples: Samples,
    price: Price | None,
    widen: WideScales,
) -> Mixture:
    """Choose the layers that leave int8, with the error of each in integers and its time in its form.

    Args:
        placement, scales: all in int8.
        price: what layers cost on the device; without it they are chosen by accuracy alone, and stay float.
    """
    few = samples.load(np.arange(min(SENSED, len(samples)))).inputs
    errors = sensitivities(model, placement, scales, rules, [few])
    total, most = sum(errors.values()), int(MOST_KEPT * len(errors))
    if total <= 0 or not most:
        return Mixture()
    priced = [*errors][: min(2 * most, MOST_PRICED)]
    prices = price(priced, priced[:MOST_WIDE] if rules.wide else []) if price else None
    wide_errors: Mapping[str, float] = {}
    if prices is not None and prices.wide_ms:
        wide_errors = sensitivities(model, *widen([*prices.wide_ms]), rules, [few], layers=[*prices.wide_ms])
    forms = choose_forms(errors, wide_errors, most, prices)
    reasons = {layer: _reason(errors, wide_errors, layer, form, prices) for layer, form in forms.items()}
    return Mixture(
        kept={layer: reasons[layer] for layer, form in forms.items() if form == "float"},
        wide={layer: reasons[layer] for layer, form in forms.items() if form == "16 bits"},
        notes=_notes(forms, prices),
    )


def choose_forms(
    errors: Mapping[str, float], wide_errors: Mapping[str, float], most: int, prices: FloatPrices | None
) -> dict[str, Form]:
    """Choose at most ``most`` layers to leave int8, and their form, so that ``HURTING_SHARE`` of the ``errors`` is gone.

    With prices those steps first that take most error away for a millisecond, from int8 to 16 bits or float, and from 16
    bits to float; where so not enough of it goes, and without prices, those of largest error, in float. Only layers that
    were shown to be faster with 16 bits than in float may have them.

    Args:
        wide_errors: of layers with 16 bits; what they make less of ``errors`` is gone.
    """
    enough = HURTING_SHARE * sum(errors.values())
    if prices is not None:
        steps = [step for layer in errors for step in _steps(layer, errors, wide_errors, prices)]
        chosen, gone = _until(sorted(steps, key=lambda step: -step.gone / step.ms), most, enough)
        if gone >= enough:
            return chosen
    floats = [_Step(layer=layer, form="float", gone=error, ms=1.0) for layer, error in errors.items()]
    return _until(floats, most, enough)[0]


@final
@dataclass(frozen=True, kw_only=True)
class _Step:
    """A layer's next form: how much error goes with it, and milliseconds that it takes longer than the form before."""

    layer: str
    form: Form
    gone: float
    ms: float


def _steps(layer: str, errors: Mapping[str, float], wide_errors: Mapping[str, float], prices: FloatPrices) -> list[_Step]:
    """List the forms of a layer that are worth their time: 16 bits before float where that is cheaper for the error."""
    floor_ms = NOTICED * prices.whole_ms
    wide_ms = max(prices.wide_ms[layer], floor_ms) if layer in prices.wide_ms else None
    gone = errors[layer] - wide_errors.get(layer, errors[layer])
    shown = layer in prices.faster_wide
    wide = [] if wide_ms is None or gone <= 0 or not shown else [_Step(layer=layer, form="16 bits", gone=gone, ms=wide_ms)]
    if layer not in prices.longer_ms:
        return wide
    float_ms = max(prices.longer_ms[layer], floor_ms)
    alone = _Step(layer=layer, form="float", gone=errors[layer], ms=float_ms)
    if wide_ms is None or not wide or float_ms <= wide_ms or alone.gone / float_ms >= gone / wide_ms:
        return [alone]
    return [*wide, _Step(layer=layer, form="float", gone=errors[layer] - gone, ms=max(float_ms - wide_ms, floor_ms))]


def _until(steps: Sequence[_Step], most: int, enough: float) -> tuple[dict[str, Form], float]:
    """Take steps in order until enough error is gone; return each layer's form, and how much is gone."""
    chosen: dict[str, Form] = {}
    gone = 0.0
    for step in steps:
        if gone >= enough:
            break
        if len(chosen) < most or step.layer in chosen:
            chosen[step.layer], gone = step.form, gone + step.gone
    return chosen, gone


def _reason(
    errors: Mapping[str, float], wide_errors: Mapping[str, float], layer: str, form: Form, prices: FloatPrices | None
) -> str:
    total = sum(errors.values())
    reason = f"alone in int8 it makes {100 * errors[layer] / total:.0f} % of what all layers add to the outputs' error"
    if form == "16 bits":
        reason += f", with 16 bits {100 * wide_errors[layer] / total:.0f} %"
    cost = None if prices is None else (prices.wide_ms if form == "16 bits" else prices.longer_ms).get(layer)
    if prices is None or cost is None:
        return reason
    longer = cost / prices.whole_ms
    so = "so" if form == "16 bits" else "in float"
    return f"{reason}, and {so} the model takes {abs(100 * longer):.0f} % {'longer' if longer >= 0 else 'less'}"


def _notes(forms: Mapping[str, Form], prices: FloatPrices | None) -> tuple[str, ...]:
    """Say what activations of 16 bits were measured to cost, where they were not chosen for all that were asked."""
    if prices is None or not prices.wide_ms:
        return ()
    wide = sum(form == "16 bits" for form in forms.values())
    both = [layer for layer in prices.wide_ms if layer in prices.longer_ms]
    told = [f"with one of them so the model takes {_span(prices.wide_ms.values(), prices.whole_ms)} longer"]
    if both:
        told.append(f"with one in float {_span([prices.longer_ms[layer] for layer in both], prices.whole_ms)}")
    return (f"activations of 16 bits: measured on {len(prices.wide_ms)} layers, chosen for {wide}; {', '.join(told)}",)


def _span(values: Iterable[float], whole_ms: float) -> str:
    shares = sorted(100 * value / whole_ms for value in values)
    return f"{shares[0]:.0f} to {shares[-1]:.0f} %"
