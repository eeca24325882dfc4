"""Canonical Huffman codes of small integers, written in blocks so that numpy decodes all blocks side by side.

A code is told by the length of each symbol alone: codes of equal length follow one another in the order of the symbols,
shorter ones come first (RFC 1951, section 3.2.2). Bits are written from the highest of a byte down.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Any, final

import numpy as np
import numpy.typing as npt

BLOCK = 1024
"""Symbols of a block; its bits are told by a number of two bytes."""
LONGEST = 16
WORDS = "<u2"

Integers = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, kw_only=True)
class Coded:
    """Symbols as a Huffman code.

    Attributes:
        lengths: bits of each symbol's code, 0 for a symbol that does not occur; a byte each.
        blocks: bits of each block of ``BLOCK`` symbols; two bytes each.
        bits: the codes, one after the other.
    """

    lengths: npt.NDArray[np.uint8]
    blocks: npt.NDArray[np.uint16]
    bits: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.lengths) + 2 * len(self.blocks) + len(self.bits)


def code_lengths(frequencies: npt.NDArray[np.integer[Any]]) -> Integers:
    """Bits of each symbol in a Huffman code; 0 for what never occurs, 1 for a symbol that is alone, 16 at most.

    Where the best code has longer ones, rare symbols are taken to be less rare until it has none.
    """
    found = _lengths(frequencies)
    while found.max(initial=0) > LONGEST:
        frequencies = (frequencies + 1) // 2
        found = _lengths(frequencies)
    return found


def encode(symbols: npt.NDArray[np.uint8], alphabet: int) -> Coded:
    """``symbols`` in 0 .. alphabet - 1, at least one, in the code that is shortest for them."""
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    codes, each = _codes(lengths)[symbols], lengths[symbols]
    ends = np.cumsum(each)
    spread = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(each.max())):
        longer = each > place
        spread[(ends - each)[longer] + place] = (codes[longer] >> (each[longer] - 1 - place)) & 1
    blocks = np.add.reduceat(each, np.arange(0, len(symbols), BLOCK))
    return Coded(lengths=lengths.astype(np.uint8), blocks=blocks.astype(np.uint16), bits=np.packbits(spread).tobytes())


def decode(coded: Coded, number: int) -> npt.NDArray[np.uint8]:
    """The first ``number`` symbols.

    Raises:
        ValueError: they are no code of so many symbols.
    """
    blocks = coded.blocks.astype(np.int64)
    if len(blocks) != -(-number // BLOCK) or len(coded.bits) != -(-int(blocks.sum()) // 8):
        raise ValueError(f"{len(blocks)} blocks in {len(coded.bits)} bytes are no Huffman code of {number} symbols")
    symbols, lengths = _table(coded.lengths.astype(np.int64))
    stream = np.frombuffer(coded.bits + bytes(2 * LONGEST), np.uint8).astype(np.int64)
    ends = np.cumsum(blocks)
    at, last = ends - blocks, 8 * len(coded.bits)
    found = np.zeros((len(blocks), BLOCK), np.uint8)
    for place in range(BLOCK):
        inside = slice(0, len(blocks) if place < (number - 1) % BLOCK + 1 else len(blocks) - 1)
        start = np.minimum(at[inside], last)
        byte = start >> 3
        window = (stream[byte] << 16 | stream[byte + 1] << 8 | stream[byte + 2]) >> (8 - (start & 7)) & 0xFFFF
        found[inside, place] = symbols[window]
        at[inside] += lengths[window]
    if not np.array_equal(at, ends):
        raise ValueError("the Huffman code does not end where its blocks do")
    return found.ravel()[:number]


def _lengths(frequencies: npt.NDArray[np.integer[Any]]) -> Integers:
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


def _codes(lengths: Integers) -> Integers:
    """The canonical code of each symbol; 0 where it has none."""
    codes, code = np.zeros(len(lengths), np.int64), 0
    for length in range(1, LONGEST + 1):
        for symbol in np.flatnonzero(lengths == length):
            codes[symbol] = code
            code += 1
        code <<= 1
    return codes


def _table(lengths: Integers) -> tuple[npt.NDArray[np.uint8], Integers]:
    """Symbol and length of the code that any 16 bits begin with; length 0 where none does.

    Raises:
        ValueError: no code has such lengths.
    """
    used = np.flatnonzero(lengths)
    if lengths.max(initial=0) > LONGEST or (2.0 ** -lengths[used]).sum() > 1:
        raise ValueError("no Huffman code has these lengths")
    symbols, sizes = np.zeros(1 << LONGEST, np.uint8), np.zeros(1 << LONGEST, np.int64)
    for symbol, code in zip(used, _codes(lengths)[used], strict=True):
        room = LONGEST - int(lengths[symbol])
        symbols[code << room : (code + 1) << room] = symbol
        sizes[code << room : (code + 1) << room] = lengths[symbol]
    return symbols, sizes
