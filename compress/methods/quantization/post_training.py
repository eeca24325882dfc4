"""Post-training quantisation: a float model, calibration samples, a recipe -> placement, scales, weights on their grid.

It needs no training and no labels, so it stands in every report as what is free, and is the first attempt of the stage
``quantize``; quantisation-aware training starts from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from calib.ranges import merge, symmetric_scales
from compress.data import Samples
from compress.methods.quantization.calibration_checks import check_calibration
from compress.methods.quantization.mixed import Price, choose_mixture
from compress.methods.quantization.observer import Observer, sample_inputs
from compress.methods.quantization.operations import Quantize
from compress.models.inputs import InputShape, InputShapes, ModelInputs
from deploy.engines.inputs import ONE
from deploy.export.to_onnx import capture, to_onnx
from deploy.onnx_graph.graph import Graph
from deploy.qdq.bias_correction import correct_biases
from deploy.qdq.equalization import equalize
from deploy.qdq.insert import Scales, activation_range, activation_scale, insert, weight_limit, weight_scales
from deploy.qdq.placement import NO_LAYERS, Placement, place
from deploy.qdq.wide import widened
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION, QuantizationRecipe

if TYPE_CHECKING:
    from torch.export import ExportedProgram

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
        notes: what a mixture of precisions chose, and what it measured and left.
    """

    model: onnx.ModelProto
    quantize: Quantize
    scales: Scales
    program: ExportedProgram | None = None
    notes: tuple[str, ...] = ()

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
    notes: tuple[str, ...] = ()
    if options.mixed:

        def widen(layers: Sequence[str]) -> tuple[Placement, Scales]:
            wide = calibrate(model, samples, recipe, options.ranges, observer=observer, wide=layers)
            return wide.placement, _scales(model, wide, rules, options.weights)

        mixture = choose_mixture(model, quantize.placement, scales, rules, samples, price, widen)
        if mixture.kept or mixture.wide:
            quantize = calibrate(model, samples, recipe, options.ranges, mixture.kept, observer, mixture.wide)
            scales = _scales(model, quantize, rules, options.weights)
        notes = (*(f"{layer} reads 16 bits: {reason}" for layer, reason in mixture.wide.items()), *mixture.notes)
    if options.rounding == "learned":
        from compress.methods.quantization.adaround import learn_rounding

        model = learn_rounding(model, quantize.placement, scales, rules, sample_inputs(samples))
    if options.biases:
        model = correct_biases(model, quantize.placement, scales, rules, sample_inputs(samples))
    return QuantizedModel(model=model, quantize=quantize, scales=scales, notes=notes)


def calibrate(
    model: onnx.ModelProto,
    samples: Samples,
    recipe: str,
    method: str,
    kept: Mapping[str, str] = NO_LAYERS,
    observer: Observer | None = None,
    wide: Collection[str] = (),
) -> Quantize:
    """Calibrate a float ``model``: its placement, and the scale of each placed activation over all ``samples``.

    Args:
        kept: layers that stay float, with the reason.
        wide: layers that read activations of 16 bits.

    Raises:
        UserError: the samples cannot be calibrated on, or a tensor held NaN or infinity.
    """
    rules = QUANTIZATION[recipe]
    shape = input_shapes(model)
    check_calibration(samples, shape)
    placement = place(model, rules, kept)
    placement = widened(model, placement, wide, rules)
    try:
        histograms = (observer or Observer()).histograms(model, placement, samples)
    except ValueError as error:
        raise UserError(f"calibration: {error}") from None
    bits = placement.bits
    scales_by_source: dict[str, tuple[float, int]] = {}
    for source, tensors in placement.observed_tensors().items():
        histogram = merge([histograms[tensor] for tensor in tensors])
        low, high = activation_range(histogram, rules, method, bits[source])
        scales_by_source[source] = activation_scale(low, high, rules, bits[source])
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
