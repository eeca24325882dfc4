"""The latency table: milliseconds of a model's pieces on one engine of one device, as a function of widths. Host only.

    ms = offset + factor x ( sum over pieces of  ms of the piece at its groups' widths )

A piece is measured alone, once for each structure and sizes, at a few widths of the multiples that the device likes, and
interpolated linearly between them; a piece of two groups at more widths of each, with the other at its least or its most
(``_patch``). Copies stand one behind the other where their shapes allow it, and the time of one is taken off; else the piece
stands behind the one before it, whose own time is taken off; else what an empty call takes and converts is (``Overhead``).
Maps that come out are averaged first: to hand one of 64 x 64 x 64 over was measured to take twice as long, on OpenVINO, as
the layer that made it. Alone is not quite as in the whole: caches are warmer. So factor and offset are learnt from a few
whole models of random widths; ``error`` says how far the sum then is from those. All this is fitted on least times; the
result is scaled to medians by what the whole models' medians were above their least times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.latency.stopwatch import Stopwatch, Time
from deploy.latency.table import LatencyTable, PieceCost, sum_pieces
from deploy.latency.template import Piece, Sizes, Template

COPIES = 3
WHOLE_PASSES = 20
POINTS = {1: 16, 2: 12, 3: 3}
"""Widths of each axis at which a piece of so many axes is measured; more axes, fewer widths, never fewer than both ends."""
MOST_CORNERS = 4
WHOLES = 8
EMPTY = ((16, 32), (32, 16), (64, 8), (64, 32), (32, 56))
"""Channels and height of the layers by which an empty call is measured."""
NOISE = 0.04
"""Relative difference between repeats of one measurement."""


def count_table(template: Template, count: Callable[[onnx.ModelProto], int]) -> tuple[PieceCost, ...]:
    """Return pieces whose cost is a count that is multilinear in the widths, such as multiply-accumulates."""

    def corners(piece: Piece) -> PieceCost:
        grid = tuple((1, template.axes[a].width) for a in piece.axes)
        if len(piece.axes) > MOST_CORNERS:
            return _star(template, piece, 1, lambda widths: float(count(template.model(piece.nodes, widths))))
        return _filled(piece, grid, lambda widths: float(count(template.model(piece.nodes, widths))))

    return tuple(corners(piece) for piece in template.pieces)


def measure_table(template: Template, stopwatch: Stopwatch, multiple: int, seed: int = 0) -> LatencyTable:
    """Measure the table of a template: its pieces on their grids, and the correction from whole models.

    Raises:
        EngineError: the runtime refuses a piece.
    """
    overhead = Overhead.measure(stopwatch)
    requests = {
        (number, _at(widths)): _sample(template, number, widths)
        for number, piece in enumerate(template.pieces)
        for widths in _places(template, piece, multiple)
    }
    raw = stopwatch.times({name: maker for sample in requests.values() for name, maker in sample.makers.items()})
    piece_ms = {place: sample.alone_ms(raw, overhead) for place, sample in requests.items()}

    def cost(number: int) -> Callable[[Sizes], float]:
        return lambda widths: piece_ms[number, _at(widths)]

    pieces = []
    for number, piece in enumerate(template.pieces):
        if len(piece.axes) > MOST_CORNERS:
            pieces.append(_star(template, piece, multiple, cost(number)))
        else:
            pieces.append(_filled(piece, _grid(template, piece, multiple), cost(number)))
    return _corrected(template, tuple(pieces), stopwatch, multiple, seed)


def width_options(width: int, multiple: int) -> tuple[int, ...]:
    """Return the widths that a group of ``width`` channels may have, ascending, its own with them."""
    return (*range(multiple, width, multiple), width)


def random_pruning(template: Template, multiple: int, random: np.random.Generator) -> tuple[dict[str, int], list[str]]:
    """Draw random widths of every axis, and random blocks to remove."""
    keep = random.uniform(0, 1)
    widths = {a: int(random.choice(width_options(axis.width, multiple))) for a, axis in template.axes.items()}
    return widths, [path for path in template.blocks if random.uniform(0, 1) > max(keep, 0.3)]


def time_whole_models(
    template: Template, stopwatch: Stopwatch, variants: Sequence[tuple[Sizes, Sequence[str]]], among: str = "whole"
) -> list[Time]:
    """Measure whole models at some widths, without some blocks.

    Args:
        among: what they are compared with. Times that are compared must be of one moment, so those kept from another
            comparison do not count.
    """
    everything = range(len(template.nodes))
    names = [f"{among}-{template.signature(everything, w)}-{'+'.join(sorted(r))}" for w, r in variants]
    makers = {name: _whole_maker(template, *variant) for name, variant in zip(names, variants, strict=True)}
    times = stopwatch.times(makers, WHOLE_PASSES)
    return [times[name] for name in names]


def _corrected(
    template: Template, pieces: tuple[PieceCost, ...], stopwatch: Stopwatch, multiple: int, seed: int
) -> LatencyTable:
    """Return the table whose factor and offset fit some whole models best, by relative error."""
    full = {a: axis.width for a, axis in template.axes.items()}
    least = {a: width_options(axis.width, multiple)[0] for a, axis in template.axes.items()}
    random = np.random.default_rng(seed)
    variants: list[tuple[Sizes, Sequence[str]]] = [(full, []), (least, list(template.blocks)), (least, [])]
    variants += [random_pruning(template, multiple, random) for _ in range(WHOLES - len(variants))]
    times = time_whole_models(template, stopwatch, variants)
    measured = np.array([time.least_ms for time in times])
    sums = np.array([sum_pieces(pieces, widths, removed) for widths, removed in variants])
    factor, offset = _fit(sums, measured)
    errors = np.abs(offset + factor * sums - measured) / measured
    busy = float(np.median([time.p50_ms / time.least_ms for time in times]))
    return LatencyTable(
        pieces=pieces,
        widths=full,
        factor=factor * busy,
        offset_ms=offset * busy,
        error=float(np.median(errors)),
        full_ms=float(measured[0]) * busy,
        fastest_ms=float(measured[1]) * busy,
        unfollowed=template.unfollowed,
    )


def _fit(sums: npt.NDArray[np.float64], measured: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return factor and offset of least squares of relative errors, neither negative."""
    rows = np.stack([sums / measured, 1 / measured], axis=1)
    factor, offset = np.linalg.lstsq(rows, np.ones(len(measured)), rcond=None)[0]
    if offset < 0 or factor <= 0:
        ratio = sums / measured
        return float(ratio.sum() / (ratio**2).sum()), 0.0
    return float(factor), float(offset)


@final
@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Milliseconds of a call besides its layers: fixed, and for each input element (layout, integers)."""

    fixed_ms: float
    element_ms: float

    def call_ms(self, elements: int) -> float:
        """Return the milliseconds of a call with so many input elements."""
        return self.fixed_ms + self.element_ms * elements

    @classmethod
    def measure(cls, stopwatch: Stopwatch) -> Overhead:
        """Measure stacks of one and of more equal layers, and fit the time that does not grow with their number."""
        makers: dict[str, Callable[[], onnx.ModelProto]] = {}
        for channels, height in EMPTY:
            for depth in (1, 1 + COPIES):
                makers[_stack(channels, height, depth)] = _stack_maker(channels, height, depth)
        ms = {name: time.least_ms for name, time in stopwatch.times(makers).items()}
        rows, values = [], []
        for channels, height in EMPTY:
            one, more = (ms[_stack(channels, height, depth)] for depth in (1, 1 + COPIES))
            rows.append((1.0, float(channels * height**2)))
            values.append(max(one - (more - one) / COPIES, 0.0))
        matrix, right = np.array(rows), np.array(values)
        fixed, element = np.linalg.lstsq(matrix, right, rcond=None)[0]
        if fixed < 0:
            fixed, element = 0.0, float((matrix[:, 1] @ right) / (matrix[:, 1] @ matrix[:, 1]))
        return cls(fixed_ms=float(fixed), element_ms=max(float(element), 0.0))


@final
@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Measurement of a piece at some widths.

    Attributes:
        whole: name of the model that holds it; ``without``: of the model that is the same but for ``copies`` of it, where
            there is one. elements: that go into the piece.
    """

    makers: Mapping[str, Callable[[], onnx.ModelProto]]
    whole: str
    without: str | None
    copies: int
    elements: int

    def alone_ms(self, raw: Mapping[str, Time], overhead: Overhead) -> float:
        """Milliseconds of one copy, never negative."""
        besides = overhead.call_ms(self.elements) if self.without is None else raw[self.without].least_ms
        return max(raw[self.whole].least_ms - besides, 0.0) / self.copies


def _sample(template: Template, number: int, widths: Sizes) -> _Sample:
    """Time copies less one copy where the piece can follow itself, else the piece behind its predecessor, less that one."""
    nodes = template.pieces[number].nodes
    inputs = template.boundary_tensors(nodes)[0]
    elements = sum(int(np.prod(template.shape(t, widths))) for t in inputs)
    if template.chainable(nodes, {}) and template.chainable(nodes, widths):
        return _less(template, (nodes, COPIES), (nodes, 1), widths, elements)
    before = template.pieces[number - 1].nodes if number else ()
    if before and template.boundary_tensors(before)[1] == inputs:
        return _less(template, ((*before, *nodes), 1), (before, 1), widths, elements)
    return _less(template, (nodes, 1), None, widths, elements)


_Made = tuple[tuple[int, ...], int]
"""Nodes, and how many copies of them."""


def _less(template: Template, whole: _Made, without: _Made | None, widths: Sizes, elements: int) -> _Sample:
    names = {stack: f"{template.signature(stack[0], widths)}-{stack[1]}-averaged" for stack in (whole, without) if stack}
    return _Sample(
        makers={name: _maker(template, *stack, widths) for stack, name in names.items()},
        whole=names[whole],
        without=names[without] if without else None,
        copies=max(whole[1] - (without[1] if without else 0), 1),
        elements=elements,
    )


def _at(widths: Sizes) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(widths.items()))


def _places(template: Template, piece: Piece, multiple: int) -> list[dict[str, int]]:
    """Return the widths at which a piece is measured."""
    if len(piece.axes) > MOST_CORNERS:
        full = {a: template.axes[a].width for a in piece.axes}
        return [full, *({**full, a: width_options(full[a], multiple)[0]} for a in piece.axes)]
    grid = _grid(template, piece, multiple)
    return [{a: points[i] for a, points, i in zip(piece.axes, grid, at, strict=True)} for at in _measured(grid)]


def _grid(template: Template, piece: Piece, multiple: int) -> tuple[tuple[int, ...], ...]:
    points = POINTS.get(len(piece.axes), 2)
    return tuple(_spread(width_options(template.axes[a].width, multiple), points) for a in piece.axes)


def _spread(widths: tuple[int, ...], points: int) -> tuple[int, ...]:
    """Return at most ``points`` of ``widths``, evenly spread, both ends among them."""
    if len(widths) <= points:
        return widths
    return tuple(widths[round(i * (len(widths) - 1) / (points - 1))] for i in range(points))


def _filled(piece: Piece, grid: tuple[tuple[int, ...], ...], cost: Callable[[Sizes], float]) -> PieceCost:
    values = np.full([len(points) for points in grid], np.nan)
    for at in _measured(grid):
        widths = [points[index] for points, index in zip(grid, at, strict=True)]
        values[at] = cost(dict(zip(piece.axes, widths, strict=True)))
    if np.isnan(values).any():
        values = _patch(values, grid)
    return PieceCost(axes=piece.axes, grid=grid, cost=_rising(values), block=piece.block, layers=piece.layers)


def _measured(grid: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Return the measured points of a grid, by index: all; of two axes those on the rim."""
    last = [len(points) - 1 for points in grid]
    places = itertools.product(*(range(len(points)) for points in grid))
    return [p for p in places if len(grid) != 2 or any(i in (0, end) for i, end in zip(p, last, strict=True))]


def _patch(values: npt.NDArray[np.float64], grid: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.float64]:
    """Fill a grid of which the rim is known (Coons 1967); exact for f(a) + g(b) + a p(b) + b q(a).

    So it is for a layer whose time per input channel goes up and down as the runtime's blocks of output channels fit.
    """
    down, right = ((np.array(points, np.float64) - points[0]) / (points[-1] - points[0]) for points in grid)
    u, v = down[:, None], right[None, :]
    rows = (1 - u) * values[:1] + u * values[-1:]
    columns = (1 - v) * values[:, :1] + v * values[:, -1:]
    corners = (1 - v) * rows[:, :1] + v * rows[:, -1:]
    filled = rows + columns - corners
    return np.where(np.isnan(values), np.maximum(filled, 0.0), values)


def _rising(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Make ``values`` rise along every axis: a knapsack would seek out each width that noise made look cheap.

    A fall that is no noise stays. Runtimes have such: on AVX2 a layer of 72 outputs was measured faster than one of 64.
    """
    rising = values
    for axis in range(values.ndim):
        up = np.maximum.accumulate(rising, axis)
        down = np.flip(np.minimum.accumulate(np.flip(rising, axis), axis), axis)
        rising = (up + down) / 2
    return np.where(np.abs(rising - values) <= NOISE * values, rising, values)


def _star(template: Template, piece: Piece, multiple: int, cost: Callable[[Sizes], float]) -> PieceCost:
    """Cost a piece of many axes: full width, and each axis alone at its least."""
    full = {a: template.axes[a].width for a in piece.axes}
    top, slopes = cost(full), []
    for axis in piece.axes:
        least = width_options(full[axis], multiple)[0]
        slopes.append((top - cost({**full, axis: least})) / max(full[axis] - least, 1))
    grid = tuple((width,) for width in full.values())
    shaped = np.full([1] * len(grid), top)
    return PieceCost(axes=piece.axes, grid=grid, cost=shaped, slopes=tuple(slopes), block=piece.block, layers=piece.layers)


def _maker(template: Template, nodes: Sequence[int], copies: int, widths: Sizes) -> Callable[[], onnx.ModelProto]:
    return lambda: template.model(nodes, widths, copies, averaged=True)


def _whole_maker(template: Template, widths: Sizes, removed: Sequence[str]) -> Callable[[], onnx.ModelProto]:
    return lambda: template.whole(widths, removed)


def _stack(channels: int, height: int, depth: int) -> str:
    return f"stack-{channels}x{height}-{depth}-averaged"


def _stack_maker(channels: int, height: int, depth: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        shape, random = (1, channels, height, height), np.random.default_rng(0)
        nodes, weights, at = [], [], "input"
        for index in range(depth):
            kernel = random.normal(size=(channels, channels, 3, 3)) / (9 * channels) ** 0.5
            weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"))
            output = f"c{index}"
            nodes.append(
                helper.make_node(
                    "Conv", [at, f"w{index}"], [output], name=f"{index}/Conv", pads=[1] * 4, kernel_shape=[3, 3]
                )
            )
            nodes.append(helper.make_node("Relu", [output], [f"r{index}"], name=f"{index}/Relu"))
            at = f"r{index}"
        nodes.append(helper.make_node("GlobalAveragePool", [at], ["averaged"], name="averaged"))
        input_info = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            nodes, "stack", [input_info], [helper.make_tensor_value_info("averaged", 1, None)], weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    return make
