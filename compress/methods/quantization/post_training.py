"""Post-training quantisation: a float model, calibration samples, a recipe -> placement, scales, weights on their grid.

It needs no training and no labels, so it stands in every report as what is free, and is the first attempt of the stage
``quantize``; quantisation-aware training starts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from calib.ranges import METHODS, merge, symmetric_scales
from compress.data import Samples
from compress.methods.cost_model import FloatPrices
from compress.methods.quantization.calibration_checks import check_calibration
from compress.methods.quantization.observer import Observer, sample_inputs
from compress.methods.quantization.operations import Quantize
from compress.models.inputs import InputShape, InputShapes, ModelInputs
from deploy.engines.inputs import ONE
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.qdq.bias_correction import correct_biases
from deploy.qdq.equalization import equalize
from deploy.qdq.insert import Scales, activation_levels, activation_scale, insert, weight_limit, weight_scales
from deploy.qdq.placement import NO_LAYERS, place
from deploy.qdq.sensitivity import sensitivities
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION, QuantizationRecipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SENSED = 16
"""Samples on which each layer's own cost is measured, a run of the model each."""
HURTING_SHARE, MOST_KEPT = 0.5, 0.25
"""Layers that stay float: the fewest that make this share of the error, and at most this share of them."""

MOST_PRICED = 24
"""Layers that are timed in float, an engine each."""
NOTICED = 0.005
"""Share of the model's time below which a difference is none."""

Price = Callable[[Sequence[str]], FloatPrices | None]
"""What each of some layers costs in float on the device."""

Ranges = Literal["minmax", "percentile", "mse", "norm", "entropy"]


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """Options of post-training quantisation.

    Attributes:
        ranges: which range an activation is quantised over.
        weights: a weight channel's scale from its largest value, or of least squared error.
        equalise: whether neighbouring layers' channels are scaled alike first (cross-layer equalisation).
        rounding: weights to the nearest integer, or up and down as learned for each layer (AdaRound).
        biases: whether biases take up what rounding shifts.
        mixed: whether the layers that cost most accuracy stay float.
    """

    ranges: Ranges = "norm"
    weights: Literal["largest", "mse"] = "mse"
    equalise: bool = False
    rounding: Literal["nearest", "learned"] = "nearest"
    biases: bool = True
    mixed: bool = False


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """Result of post-training quantisation: float ``model``, weights as they will be rounded, biases corrected.

    Attributes:
        program: float, what ``model`` was exported from, where it was exported for this.
    """

    model: onnx.ModelProto
    quantize: Quantize
    scales: Scales
    program: ExportedProgram | None = None

    def onnx(self) -> onnx.ModelProto:
        """Return the model with Q/DQ pairs and int8 weights."""
        return insert(self.model, self.quantize.placement, self.scales, QUANTIZATION[self.quantize.recipe])

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return every constant of ``model`` by name, for a program of the same module to load."""
        graph = Graph(self.model)
        return {tensor.name: graph.constant(tensor.name) for tensor in self.model.graph.initializer}


def quantize_model(
    model: onnx.ModelProto,
    samples: Samples,
    recipe: str,
    options: PostTraining,
    observer: Observer | None = None,
    price: Price | None = None,
) -> QuantizedModel:
    """Quantise a float ``model`` for a recipe of ``QUANTIZATION``, as ``options`` say.

    Args:
        observer: what has seen the model before, or will see it for other recipes.
        price: what layers cost in float on the device, for ``mixed``; without it they are chosen by accuracy alone.

    Raises:
        UserError: the samples cannot be calibrated on, or a tensor held NaN or infinity.
    """
    rules, observer = QUANTIZATION[recipe], observer or Observer()
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UserError("the model is quantised already; give the float model that it was made from")
    if options.equalise:
        model = equalize(model)
    quantize = calibrate(model, samples, recipe, options.ranges, observer=observer)
    scales = _scales(model, quantize, rules, options.weights)
    if options.mixed and (kept := _hurting(model, quantize, scales, rules, samples, price)):
        quantize = calibrate(model, samples, recipe, options.ranges, kept, observer)
        scales = _scales(model, quantize, rules, options.weights)
    if options.rounding == "learned":
        from compress.methods.quantization.adaround import learn_rounding

        model = learn_rounding(model, quantize.placement, scales, rules, sample_inputs(samples))
    if options.biases:
        model = correct_biases(model, quantize.placement, scales, rules, sample_inputs(samples))
    return QuantizedModel(model=model, quantize=quantize, scales=scales)


def calibrate(
    model: onnx.ModelProto,
    samples: Samples,
    recipe: str,
    method: str,
    kept: Mapping[str, str] = NO_LAYERS,
    observer: Observer | None = None,
) -> Quantize:
    """Calibrate a float ``model``: its placement, and the scale of each placed activation over all ``samples``.

    Args:
        kept: layers that stay float, with the reason.

    Raises:
        UserError: the samples cannot be calibrated on, or a tensor held NaN or infinity.
    """
    rules = QUANTIZATION[recipe]
    shape = input_shapes(model)
    check_calibration(samples, shape)
    placement = place(model, rules, kept)
    try:
        histograms = (observer or Observer()).histograms(model, placement, samples)
    except ValueError as error:
        raise UserError(f"calibration: {error}") from None
    scales_by_source: dict[str, tuple[float, int]] = {}
    for source, tensors in placement.observed_tensors().items():
        histogram = merge([histograms[tensor] for tensor in tensors])
        low, high = METHODS[method](histogram, activation_levels(histogram.minimum, rules))
        scales_by_source[source] = activation_scale(low, high, rules)
    scales = {activation.tensor: scales_by_source[activation.source] for activation in placement.activations}
    return Quantize(recipe=recipe, input_shape=shape, placement=placement, activations=scales)


def input_shapes(model: onnx.ModelProto) -> InputShapes:
    """Return the shape of a sample, 0 for a free dimension; of several inputs by name."""
    constants = {tensor.name for tensor in model.graph.initializer}
    types = {given.name: given.type.tensor_type for given in model.graph.input if given.name not in constants}
    shapes = {name: tuple(d.dim_value for d in each.shape.dim[1:]) for name, each in types.items()}
    kinds = {name: str(onnx.helper.tensor_dtype_to_np_dtype(each.elem_type)) for name, each in types.items()}
    if list(shapes) == [ONE] and kinds[ONE] == "float32":
        return shapes[ONE]
    return {name: InputShape(shapes[name], kinds[name]) for name in shapes}


def apply(model: onnx.ModelProto, quantize: Quantize, samples: Samples | None = None) -> onnx.ModelProto:
    """Insert the Q/DQ pairs of a calibration, weights rounded to nearest; biases corrected by ``samples``."""
    rules = QUANTIZATION[quantize.recipe]
    scales = _scales(model, quantize, rules, "largest")
    if samples is not None:
        model = correct_biases(model, quantize.placement, scales, rules, sample_inputs(samples))
    return insert(model, quantize.placement, scales, rules)


def _scales(model: onnx.ModelProto, quantize: Quantize, rules: QuantizationRecipe, method: str) -> Scales:
    graph = Graph(model)
    weights = {}
    for weight in quantize.placement.weights:
        value = graph.constant(weight.tensor)
        if method == "mse" and rules.weight_per_channel:
            rows = np.moveaxis(value, weight.axis, 0).reshape(value.shape[weight.axis], -1)
            weights[weight.tensor] = symmetric_scales(rows, weight_limit(rules))
        else:
            weights[weight.tensor] = weight_scales(value, weight.axis, rules)
    return Scales(activations=quantize.activations, weights=weights)


def _hurting(
    model: onnx.ModelProto,
    quantize: Quantize,
    scales: Scales,
    rules: QuantizationRecipe,
    samples: Samples,
    price: Price | None,
) -> dict[str, str]:
    """Choose the layers that stay float, with the error of each in integers and its time in float."""
    few = samples.load(np.arange(min(SENSED, len(samples)))).inputs
    errors = sensitivities(model, quantize.placement, scales, rules, [few])
    total, most = sum(errors.values()), int(MOST_KEPT * len(errors))
    if total <= 0 or not most:
        return {}
    prices = price([*errors][: min(2 * most, MOST_PRICED)]) if price else None
    chosen = choose_float(errors, most, prices)
    return {layer: _reason(errors[layer] / total, layer, prices) for layer in chosen}


def choose_float(errors: Mapping[str, float], most: int, prices: FloatPrices | None) -> list[str]:
    """Choose at most ``most`` layers to stay float, so that ``HURTING_SHARE`` of the summed ``errors`` is gone.

    With prices those first that take most error away for a millisecond; where so not enough of it goes, and without
    prices, those of largest error.
    """
    enough = HURTING_SHARE * sum(errors.values())
    if prices is not None:
        floor_ms = NOTICED * prices.whole_ms
        cheap = sorted(prices.longer_ms, key=lambda layer: -errors[layer] / max(prices.longer_ms[layer], floor_ms))
        chosen = _until(cheap, errors, most, enough)
        if sum(errors[layer] for layer in chosen) >= enough:
            return chosen
    return _until([*errors], errors, most, enough)


def _until(order: Sequence[str], errors: Mapping[str, float], most: int, enough: float) -> list[str]:
    chosen: list[str] = []
    for layer in order[:most]:
        if sum(errors[each] for each in chosen) >= enough:
            break
        chosen.append(layer)
    return chosen


def _reason(share: float, layer: str, prices: FloatPrices | None) -> str:
    reason = f"alone in int8 it makes {100 * share:.0f} % of what all layers add to the outputs' error"
    if prices is None or layer not in prices.longer_ms:
        return reason
    longer = prices.longer_ms[layer] / prices.whole_ms
    return f"{reason}, and in float the model takes {abs(100 * longer):.0f} % {'longer' if longer >= 0 else 'less'}"


@final
class ModuleQuantizer:
    """Post-training quantiser of float modules; a module is exported once for several options in a row.

    Args:
        recipe: of ``QUANTIZATION``; None where no runtime of the device runs int8, and then it is not asked.
        example: inputs of shape (samples, ...).
        samples: to calibrate on.
        observer, price: as ``quantize`` takes them.
    """

    def __init__(
        self,
        recipe: str | None,
        example: ModelInputs,
        samples: Samples,
        observer: Observer | None = None,
        price: Price | None = None,
    ) -> None:
        self._recipe, self._example, self._samples = recipe, example, samples
        self._observer, self._price = observer, price
        self._last: tuple[nn.Module, ExportedProgram, onnx.ModelProto] | None = None

    def __call__(self, module: nn.Module, options: PostTraining) -> QuantizedModel:
        """Quantise ``module``, which must not change between calls."""
        assert self._recipe is not None, "the quantize stage has asked for a runtime with int8"
        if self._last is None or self._last[0] is not module:
            program = capture(module, self._example)
            self._last = module, program, to_onnx(program)
        _, program, model = self._last
        quantized = quantize_model(model, self._samples, self._recipe, options, self._observer, self._price)
        return replace(quantized, program=program)
