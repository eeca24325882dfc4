"""AdaRound (Nagel et al. 2020): rounding learned layer by layer, so that the outputs of each layer stay.

A layer's squared error depends on its inputs through their second moments only, so those are summed over the samples
and the inputs are not kept: memory does not grow with the calibration set, nor the time of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from deploy.engines.inputs import Inputs, count, rows
from deploy.onnx_graph.graph import Graph, attribute
from deploy.onnx_graph.run import run_batches
from deploy.qdq.insert import Scales, activation_limits, weight_limit
from deploy.qdq.placement import Placement
from profiles.quantization import QuantizationRecipe

STEPS, RATE, WEIGHT = 400, 0.03, 0.05
STRETCH = (-0.1, 1.1)
SHARPNESS = (20.0, 2.0)
WARMUP = 0.2
PLACES, FEW = 64, 8
"""Output places of a sample that are drawn, as more of the same picture tell little; samples that are run at once."""
MOST_COLUMNS = 4608
"""Weights of one output; second moments of more would not fit."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    node: onnx.NodeProto
    weight: Tensor  # (groups, outputs, columns)
    scale: Tensor  # (groups, outputs, 1)
    restore: Callable[[Tensor], npt.NDArray[np.float32]]


def learn_rounding(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Scales,
    recipe: QuantizationRecipe,
    batches: Iterable[Inputs],
) -> onnx.ModelProto:
    """Round the placed weights of a copy of a float ``model`` to their scales' grid, up or down as learned.

    Args:
        batches: calibration samples, arrays of shape (samples, ...).
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    layers = list(_layers(Graph(model), placement, scales))
    sums = [_Moments(layer) for layer in layers]
    names, bits = [layer.node.input[0] for layer in layers], placement.bits
    for _, values in run_batches(model, names, _small(batches)):
        for each in sums:
            read = each.layer.node.input[0]
            each.add(values[read], scales, recipe, bits.get(read, 8))
    limit = weight_limit(recipe)
    rounded = {each.layer.node.input[1]: each.layer.restore(_rounded(each, limit)) for each in sums}
    for tensor in result.graph.initializer:
        if tensor.name in rounded:
            tensor.CopyFrom(numpy_helper.from_array(rounded[tensor.name], tensor.name))
    return result


def _layers(graph: Graph, placement: Placement, scales: Scales) -> Iterator[_Layer]:
    """List the placed layers that alone read their weight, each weight as (groups, outputs, columns)."""
    placed = {weight.tensor: weight for weight in placement.weights}
    for node in graph.nodes:
        if len(node.input) < 2 or node.input[1] not in placed or len(graph.consumers(node.input[1])) > 1:
            continue
        value = torch.from_numpy(graph.constant(node.input[1]).astype(np.float32))
        axis, scale = placed[node.input[1]].axis, torch.from_numpy(scales.weights[node.input[1]])
        if value.dim() > 4 or (value.dim() > 2 and node.op_type != "Conv"):
            continue  # of three dimensions it would unfold more than memory holds
        turned = value.movedim(axis, 0)
        groups = int(attribute(node, "group", 1))
        flat = turned.reshape(groups, len(turned) // groups, -1)
        if flat.shape[-1] > MOST_COLUMNS:
            continue

        def restore(values: Tensor, turned: Tensor = turned, axis: int = axis) -> npt.NDArray[np.float32]:
            return np.ascontiguousarray(values.reshape(turned.shape).movedim(0, axis).numpy())

        yield _Layer(node=node, weight=flat, scale=scale.reshape(groups, -1, 1), restore=restore)


class _Moments:
    """Second moments of a layer's inputs, quantised (q) and float (x): sums of q q' and q x', (groups, columns, columns)."""

    def __init__(self, layer: _Layer) -> None:
        groups, _, columns = layer.weight.shape
        self.layer = layer
        self.own, self.cross = (torch.zeros(groups, columns, columns) for _ in range(2))
        self._generator = torch.Generator().manual_seed(0)

    def add(self, values: npt.NDArray[Any], scales: Scales, recipe: QuantizationRecipe, bits: int = 8) -> None:
        name, (groups, _, columns) = self.layer.node.input[0], self.layer.weight.shape
        plain = torch.from_numpy(np.array(values, np.float32))
        quantised = plain
        if name in scales.activations:
            (step, zero), (smallest, largest) = scales.activations[name], activation_limits(recipe, bits)
            quantised = (((plain / step).round() + zero).clamp(smallest, largest) - zero) * step
        both = _columns(torch.cat([plain, quantised]), self.layer.node, groups)
        before, after = both.chunk(2, dim=1)  # (groups, samples, places, columns)
        drawn = torch.randint(before.shape[2], (min(PLACES, before.shape[2]),), generator=self._generator)
        x, q = (each[:, :, drawn].reshape(groups, -1, columns) for each in (before, after))
        self.own += q.transpose(1, 2) @ q
        self.cross += q.transpose(1, 2) @ x


def _small(batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """Yield the samples a few at a time, as the inputs of all layers are in memory at once."""
    for batch in batches:
        for start in range(0, count(batch), FEW):
            yield rows(batch, slice(start, start + FEW))


def _columns(values: Tensor, node: onnx.NodeProto, groups: int) -> Tensor:
    """Unfold the inputs of each output place: (groups, samples, places, columns)."""
    if node.op_type != "Conv":
        samples = values.t() if attribute(node, "transA", 0) else values
        return samples.reshape(1, len(values), -1, samples.shape[-1])
    if values.dim() == 3:  # of one dimension: as of two, of height 1
        values = values.unsqueeze(2)
    kernel, dilation, stride, pads = _sides(node)
    top, left, bottom, right = pads
    padded = functional.pad(values, (left, right, top, bottom))
    unfolded = functional.unfold(padded, kernel, dilation, 0, stride)
    return unfolded.reshape(len(values), groups, -1, unfolded.shape[-1]).permute(1, 0, 3, 2)


def _sides(node: onnx.NodeProto) -> tuple[tuple[int, ...], ...]:
    """Return kernel, dilations and strides of height and width, and pads before and behind both."""
    kernel = tuple(attribute(node, "kernel_shape"))
    sides = len(kernel)
    dilation, stride = (tuple(attribute(node, name, [1] * sides)) for name in ("dilations", "strides"))
    pads = tuple(attribute(node, "pads", [0] * 2 * sides))
    if sides == 1:
        return (1, *kernel), (1, *dilation), (1, *stride), (0, pads[0], 0, pads[1])
    return kernel, dilation, stride, pads


def _rounded(sums: _Moments, limit: int) -> Tensor:
    """Return the rounded weights of least error; never worse than the nearest."""
    layer, own, cross = sums.layer, sums.own, sums.cross
    size = own.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-30)
    own, cross = own / size, cross / size
    target = (layer.weight / layer.scale) @ cross.transpose(1, 2)  # in steps of the grid, so that all channels count alike
    plain = (layer.weight / layer.scale).clamp(-limit, limit)

    def error(integers: Tensor) -> Tensor:
        """Compute the squared error of the outputs up to a constant; (groups, outputs)."""
        return ((integers @ own - 2 * target) * integers).sum(-1)

    floor = plain.floor()
    low, high = STRETCH
    share = ((plain - floor) - low) / (high - low)
    raised = torch.logit(share.clamp(1e-4, 1 - 1e-4)).requires_grad_(True)
    optimizer = torch.optim.Adam([raised], lr=RATE)

    def soft() -> Tensor:
        """Compute the rectified sigmoid, equation 23."""
        return (torch.sigmoid(raised) * (high - low) + low).clamp(0, 1)

    for step in range(STEPS):
        up = soft()
        loss = error(floor + up).sum()
        if step > WARMUP * STEPS:
            passed = (step / STEPS - WARMUP) / (1 - WARMUP)
            beta = SHARPNESS[1] + (SHARPNESS[0] - SHARPNESS[1]) * (1 - passed)
            loss = loss + WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).sum()  # equation 24
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        nearest = plain.round()
        learned = (floor + (soft() > 0.5)).clamp(-limit, limit)
        better = (error(learned) < error(nearest)).unsqueeze(-1)
        return torch.where(better, learned, nearest) * layer.scale
