"""Q/DQ recipes: what each runtime on each kind of processor needs to stay in integers.

A recipe is a property of the target, not a global constant: the same file can be the fastest on
one processor and slower than float on another. Adding one is adding an entry to the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class QuantizationRecipe:
    """How a runtime wants tensors quantised.

    Attributes:
        activation: integer type of activations.
        activation_symmetric: zero point 0 for ``int8``, so that only the scale is free.
        weight_bits: levels used of an ``int8`` weight; 7 where the processor's u8 x s8 products
            saturate (AVX2 and AVX-512 without VNNI add pairs in 16 bits).
        weight_per_channel: one scale an output channel, else one a tensor.
        why: where this was learned, for the reader of a report.
    """

    activation: Literal["uint8", "int8"]
    activation_symmetric: bool
    weight_bits: int = 8
    weight_per_channel: bool = True
    why: str


QUANTIZATION: dict[str, QuantizationRecipe] = {
    "x86-vnni": QuantizationRecipe(
        activation="uint8",
        activation_symmetric=False,
        why="VPDPBUSD multiplies u8 by s8; u8 activations with s8 per-channel weights measured best on ONNX Runtime "
        "and OpenVINO alike",
    ),
    "x86-no-vnni": QuantizationRecipe(
        activation="uint8",
        activation_symmetric=False,
        weight_bits=7,
        why="VPMADDUBSW saturates in 16 bits: weights keep one bit free",
    ),
    "arm-dotprod": QuantizationRecipe(
        activation="int8",
        activation_symmetric=False,
        why="SDOT multiplies s8 by s8; u8 activations would be flipped at run time",
    ),
}
