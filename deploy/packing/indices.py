"""Packed weights below 8 bits: indices of few points, stored bit by bit and decoded exactly.

No engine here computes with them: they reduce the size of a file alone (deploy/packing/packed_file.py).
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
    """A weight tensor as indices of points.

    Attributes:
        bits: bits of an index.
        bucket: number of consecutive weights with one range.
        points: in 0 .. 1, ascending; (2 ** bits,) at most.
        low, span: range of each bucket, (buckets,): a weight is ``low + span * points[index]``.
        indices: packed indices, ``bits`` each.
        uniform: whether the points are evenly spaced, and so need no storage.
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
        """Decode the weights, bit for bit as packed; of shape ``shape``."""
        values = self.points[self.symbols()]
        bucket = np.arange(len(values)) // self.bucket
        return np.asarray(self.low[bucket] + self.span[bucket] * values, np.float32).reshape(self.shape)

    def symbols(self) -> npt.NDArray[np.uint8]:
        """Unpack the index of each weight; (weights,)."""
        return unpack_indices(self.indices, self.bits, int(np.prod(self.shape)))


def pack(
    weight: npt.NDArray[Any],
    bits: int,
    points: npt.NDArray[Any] | None = None,
    bucket: int = BUCKET,
    ranges: tuple[Floats, Floats] | None = None,
) -> PackedTensor:
    """Round each weight to the nearest point of its bucket's range (Polino et al. 2018, section 2.1, linear scaling).

    Args:
        points: in 0 .. 1; None: evenly spaced.
        ranges: least value and range of each bucket; None: those of the weights.

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
    """Compute the quantiles of the scaled weights, as points to train from (Polino et al. 2018, section 4); (2 ** bits,)."""
    flat = np.asarray(weight, np.float32).ravel()
    low, span = _buckets(flat, bucket)
    which = np.arange(flat.size) // bucket
    scaled = (flat - low[which]) / np.where(span[which] > 0, span[which], 1)
    return np.asarray(np.quantile(scaled, np.linspace(0, 1, 2**bits)), np.float32)


def fitted_points(weight: npt.NDArray[Any], bits: int, bucket: int = BUCKET) -> Floats:
    """Fit points of least squared error, weighted by the buckets' ranges (Lloyd's algorithm); (2 ** bits,)."""
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
    """Return 2 ** bits points from 0 to 1 in equal steps; the same bits on every machine."""
    return np.asarray(np.arange(2**bits) / (2**bits - 1), np.float32)


def _buckets(flat: Floats, bucket: int) -> tuple[Floats, Floats]:
    """Return least value and range of each bucket."""
    starts = np.arange(0, flat.size, bucket)
    low = np.minimum.reduceat(flat, starts)
    return low, np.maximum.reduceat(flat, starts) - low


def pack_indices(indices: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Pack indices one after the other, ``bits`` each, from the highest bit of a byte down."""
    spread = np.unpackbits(indices[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(spread.ravel()).tobytes()


def unpack_indices(packed: bytes, bits: int, number: int) -> npt.NDArray[np.uint8]:
    """Unpack the ``number`` indices in ``packed``; (number,)."""
    spread = np.unpackbits(np.frombuffer(packed, np.uint8))[: number * bits].reshape(number, bits)
    return np.asarray(spread @ (1 << np.arange(bits - 1, -1, -1, dtype=np.uint8)), np.uint8)


def quantize_weight(weight: npt.NDArray[Any], scale: npt.NDArray[np.float32], axis: int, limit: int) -> npt.NDArray[np.int8]:
    """Round ``weight`` to integers under a scale per channel along ``axis``; same shape."""
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return np.asarray(np.clip(np.rint(weight / scale.reshape(shape)), -limit, limit), np.int8)
