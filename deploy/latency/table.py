"""The latency table as data: the costs of a model's pieces at any widths, and their sum; ``measure_table`` measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from deploy.latency.template import Sizes


@final
@dataclass(frozen=True, kw_only=True)
class PieceCost:
    """The cost of a piece as a function of its axes' widths.

    Attributes:
        axes: names; ``grid`` has the widths of each, ascending, and ``cost`` a value for each combination of them.
        slopes: with many axes: cost of a channel of each, off ``cost`` at full width; then ``grid`` has full widths only.
    """

    axes: tuple[str, ...]
    grid: tuple[tuple[int, ...], ...]
    cost: npt.NDArray[np.float64]
    slopes: tuple[float, ...] = ()
    block: str | None = None
    layers: tuple[str, ...] = ()

    def at(self, widths: Sequence[int]) -> float:
        """Return the cost at one width for each axis, multilinear between grid points."""
        if self.slopes:
            less = sum(s * (g[0] - w) for s, g, w in zip(self.slopes, self.grid, widths, strict=True))
            return max(float(self.cost.flat[0]) - less, 0.0)
        value = self.cost
        for points, width in zip(self.grid, widths, strict=True):
            value = _between(value, points, width)
        return float(value)


@final
@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Milliseconds as a function of widths and removed blocks.

    Attributes:
        pieces: uncorrected.
        error: median of the relative errors on the whole models that factor and offset were learnt from.
        full_ms: the whole model at full widths, measured.
        fastest_ms: the whole model at its least widths without its blocks, measured.
        unfollowed: groups and blocks that the table cannot price, with the reason.
    """

    pieces: tuple[PieceCost, ...]
    widths: Mapping[str, int]
    factor: float
    offset_ms: float
    error: float
    full_ms: float
    fastest_ms: float
    unfollowed: Mapping[str, str] = field(default_factory=dict)

    def predict_ms(self, widths: Sizes, removed: Sequence[str] = ()) -> float:
        """Predict the whole model's milliseconds; an axis that is not named has its full width."""
        return self.offset_ms + self.factor * sum_pieces(self.pieces, {**self.widths, **widths}, removed)


def sum_pieces(pieces: Sequence[PieceCost], widths: Sizes, removed: Sequence[str] = ()) -> float:
    """Sum all pieces that are not part of a removed block."""
    gone = set(removed)
    return sum(piece.at([widths[a] for a in piece.axes]) for piece in pieces if piece.block not in gone)


def _between(values: npt.NDArray[np.float64], points: tuple[int, ...], width: int) -> npt.NDArray[np.float64]:
    """Interpolate values along the first axis, linear between ``points`` and beyond the last two of them."""
    if len(points) == 1:
        return np.asarray(values[0])
    upper = int(np.clip(np.searchsorted(points, width), 1, len(points) - 1))
    low, high = points[upper - 1], points[upper]
    part = (width - low) / (high - low)
    return np.asarray(values[upper - 1] * (1 - part) + values[upper] * part)
