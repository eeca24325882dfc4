"""Weights below 8 bits as storage: indices of few points, packed bit by bit, and decoded exactly to what an engine gets.

No engine here computes with them: what is gained is the size of a file (deploy/packing/packed_file.py), counted whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
BUCKET = 256
MOST_BITS = 8
FITTING_ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class PackedTensor:
    """A tensor as indices of points.

    Attributes:
        bits: of an index.
        points: in 0 .. 1, rising; (2 ** bits,) at most.
        low, span: of each bucket of weights: a weight is ``low + span * points[index]``.
        indices: packed, ``bits`` each.
    """

    shape: tuple[int, ...]
    bits: int
    bucket: int
    points: Floats
    low: Floats
    span: Floats
    indices: bytes
    uniform: bool

    def unpack(self) -> Floats:
        """The weights, bit for bit those that were chosen when packing; of shape ``shape``."""
        chosen = self.points[self.symbols()]
        which = np.arange(len(chosen)) // self.bucket
        return np.asarray(self.low[which] + self.span[which] * chosen, np.float32).reshape(self.shape)

    def symbols(self) -> npt.NDArray[np.uint8]:
        """The index of each weight, one after the other."""
        return unpack_indices(self.indices, self.bits, int(np.prod(self.shape)))


def pack(
    weight: npt.NDArray[Any],
    bits: int,
    points: npt.NDArray[Any] | None = None,
    bucket: int = BUCKET,
    ranges: tuple[Floats, Floats] | None = None,
) -> PackedTensor:
    """Each weight as the nearest point of its bucket's range (Polino et al. 2018, section 2.1, linear scaling).

    Args:
        points: in 0 .. 1; evenly spaced ones without.
        ranges: least value and range of each bucket; those of the weights without.

    Raises:
        ValueError: bits or the number of points are not possible, or a weight is not finite.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits is 1 to {MOST_BITS}; given: {bits}")
    levels = even_points(bits).astype(np.float64) if points is None else np.sort(np.asarray(points, np.float64).ravel())
    if not 1 <= len(levels) <= 2**bits:
        raise ValueError(f"{bits} bits tell {2**bits} points apart; given: {len(levels)}")
    flat = np.asarray(weight, np.float32).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("a weight is NaN or infinite")
    low, span = _buckets(flat, bucket) if ranges is None else ranges
    which = np.arange(flat.size) // bucket
    scaled = (flat.astype(np.float64) - low[which]) / np.where(span[which] > 0, span[which], 1)
    indices = np.searchsorted((levels[:-1] + levels[1:]) / 2, scaled).astype(np.uint8)
    return PackedTensor(
        shape=tuple(weight.shape),
        bits=bits,
        bucket=bucket,
        points=levels.astype(np.float32),
        low=low,
        span=span,
        indices=pack_indices(indices, bits),
        uniform=points is None,
    )


def quantile_points(weight: npt.NDArray[Any], bits: int, bucket: int = BUCKET) -> Floats:
    """Points where the scaled weights are: their quantiles, from which training moves them (section 4 of the paper)."""
    flat = np.asarray(weight, np.float32).ravel()
    low, span = _buckets(flat, bucket)
    which = np.arange(flat.size) // bucket
    scaled = (flat - low[which]) / np.where(span[which] > 0, span[which], 1)
    return np.asarray(np.quantile(scaled, np.linspace(0, 1, 2**bits)), np.float32)


def fitted_points(weight: npt.NDArray[Any], bits: int, bucket: int = BUCKET) -> Floats:
    """Points of least squared error for the weights, a bucket's range counted (Lloyd's algorithm, from the quantiles)."""
    flat = np.asarray(weight, np.float64).ravel()
    low, span = _buckets(np.asarray(flat, np.float32), bucket)
    which = np.arange(flat.size) // bucket
    scaled = (flat - low[which]) / np.where(span[which] > 0, span[which], 1)
    share = np.square(span.astype(np.float64))[which]
    points = quantile_points(weight, bits, bucket).astype(np.float64)
    for _ in range(FITTING_ROUNDS):
        nearest = np.searchsorted((points[:-1] + points[1:]) / 2, scaled)
        total = np.bincount(nearest, share, len(points))
        points = np.where(total > 0, np.bincount(nearest, share * scaled, len(points)) / np.maximum(total, 1e-300), points)
    return np.asarray(np.sort(points), np.float32)


def even_points(bits: int) -> Floats:
    """2 ** bits points from 0 to 1 in equal steps; the same bits on every machine."""
    return np.asarray(np.arange(2**bits) / (2**bits - 1), np.float32)


def _buckets(flat: Floats, bucket: int) -> tuple[Floats, Floats]:
    """Least value and range of each bucket."""
    starts = np.arange(0, flat.size, bucket)
    low = np.minimum.reduceat(flat, starts)
    return low, np.maximum.reduceat(flat, starts) - low


def pack_indices(indices: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Indices one after the other, ``bits`` each, from the highest bit of a byte down."""
    spread = np.unpackbits(indices[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(spread.ravel()).tobytes()


def unpack_indices(packed: bytes, bits: int, number: int) -> npt.NDArray[np.uint8]:
    """The ``number`` indices in ``packed``."""
    spread = np.unpackbits(np.frombuffer(packed, np.uint8))[: number * bits].reshape(number, bits)
    return np.asarray(spread @ (1 << np.arange(bits - 1, -1, -1, dtype=np.uint8)), np.uint8)


def quantize_weight(weight: npt.NDArray[Any], scale: npt.NDArray[np.float32], axis: int, limit: int) -> npt.NDArray[np.int8]:
    """Integers of ``weight`` under a scale per channel along ``axis``; same shape."""
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return np.asarray(np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit), np.int8)
