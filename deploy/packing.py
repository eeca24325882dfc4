"""Weights below 8 bits as storage: indices of few points, packed bit by bit, and decoded exactly to what an engine gets.

No engine here computes with them: what is gained is the size of a file, and it is counted whole, points and scales too.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
BUCKET = 256
MOST_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Packed:
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

    def unpacked(self) -> Floats:
        """The weights, bit for bit those that were chosen when packing; of shape ``shape``."""
        size = int(np.prod(self.shape))
        chosen = self.points[_unpacked(self.indices, self.bits, size)]
        which = np.arange(size) // self.bucket
        return np.asarray(self.low[which] + self.span[which] * chosen, np.float32).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of a packed tensor by what they are for; ``huffman`` is what the indices would take in a Huffman code."""

    indices: int
    points: int
    scales: int
    huffman: int

    @property
    def total(self) -> int:
        """With indices of fixed width, as they are stored."""
        return self.indices + self.points + self.scales

    @property
    def total_huffman(self) -> int:
        return self.huffman + self.points + self.scales


def pack(weight: npt.NDArray[Any], bits: int, points: npt.NDArray[Any] | None = None, bucket: int = BUCKET) -> Packed:
    """Each weight as the nearest point of its bucket's range (Polino et al. 2018, section 2.1, linear scaling).

    Args:
        points: in 0 .. 1; evenly spaced ones without.

    Raises:
        ValueError: bits or the number of points are not possible, or a weight is not finite.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits is 1 to {MOST_BITS}; given: {bits}")
    levels = np.linspace(0, 1, 2**bits) if points is None else np.sort(np.asarray(points, np.float64).ravel())
    if not 1 <= len(levels) <= 2**bits:
        raise ValueError(f"{bits} bits tell {2**bits} points apart; given: {len(levels)}")
    flat = np.asarray(weight, np.float32).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("a weight is NaN or infinite")
    low, span = _buckets(flat, bucket)
    which = np.arange(flat.size) // bucket
    scaled = (flat.astype(np.float64) - low[which]) / np.where(span[which] > 0, span[which], 1)
    indices = np.searchsorted((levels[:-1] + levels[1:]) / 2, scaled).astype(np.uint8)
    return Packed(
        shape=tuple(weight.shape),
        bits=bits,
        bucket=bucket,
        points=levels.astype(np.float32),
        low=low,
        span=span,
        indices=_packed(indices, bits),
        uniform=points is None,
    )


def quantile_points(weight: npt.NDArray[Any], bits: int, bucket: int = BUCKET) -> Floats:
    """Points where the scaled weights are: their quantiles, from which training moves them (section 4 of the paper)."""
    flat = np.asarray(weight, np.float32).ravel()
    low, span = _buckets(flat, bucket)
    which = np.arange(flat.size) // bucket
    scaled = (flat - low[which]) / np.where(span[which] > 0, span[which], 1)
    return np.asarray(np.quantile(scaled, np.linspace(0, 1, 2**bits)), np.float32)


def size(packed: Packed) -> Size:
    """What a packed tensor takes, everything that decoding needs counted but names and shapes."""
    indices = _unpacked(packed.indices, packed.bits, int(np.prod(packed.shape)))
    frequencies = np.bincount(indices, minlength=len(packed.points))
    lengths = huffman_lengths(frequencies)
    table = len(packed.points)  # a code's length for each point, a byte each, is all that a canonical code needs
    return Size(
        indices=len(packed.indices),
        points=0 if packed.uniform else packed.points.nbytes,
        scales=packed.low.nbytes + packed.span.nbytes,
        huffman=-(-int(np.dot(frequencies, lengths)) // 8) + table,
    )


def huffman_lengths(frequencies: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Bits of each symbol in a Huffman code; 0 for what never occurs, 1 for a symbol that is alone."""
    lengths = np.zeros(len(frequencies), np.int64)
    order = count()
    heap = [(int(f), next(order), [symbol]) for symbol, f in enumerate(frequencies) if f > 0]
    if len(heap) == 1:
        lengths[heap[0][2]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, _, some), (second, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[some + others] += 1
        heapq.heappush(heap, (first + second, next(order), some + others))
    return lengths


def _buckets(flat: Floats, bucket: int) -> tuple[Floats, Floats]:
    """Least value and range of each bucket."""
    starts = np.arange(0, flat.size, bucket)
    low = np.minimum.reduceat(flat, starts)
    return low, np.maximum.reduceat(flat, starts) - low


def _packed(indices: npt.NDArray[np.uint8], bits: int) -> bytes:
    spread = np.unpackbits(indices[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(spread.ravel()).tobytes()


def _unpacked(packed: bytes, bits: int, number: int) -> npt.NDArray[np.int64]:
    spread = np.unpackbits(np.frombuffer(packed, np.uint8))[: number * bits].reshape(number, bits)
    return np.asarray(spread @ (1 << np.arange(bits - 1, -1, -1)), np.int64)
