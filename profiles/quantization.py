"""Q/DQ recipes: rules for each runtime and processor to run a graph in integers.

A recipe is a property of the target, not a global constant: the same file can be the fastest on
one processor and slower than float on another. Adding one is adding an entry to the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class QuantizationRecipe:
    """Rules for quantising tensors for one runtime.

    Attributes:
        activation: integer type of activations.
        activation_symmetric: zero point 0 for ``int8``, so that only the scale is free.
        weight_bits: levels used of an ``int8`` weight; 7 where the processor's u8 x s8 products
            saturate (AVX2 and AVX-512 without VNNI add pairs in 16 bits).
        weight_per_channel: one scale an output channel, else one a tensor.
        fuses_add: the runtime computes a residual add inside the convolution before it: the branch that the convolution
            makes stays float, the other is quantised. Else every branch is.
        fuses_pad: the runtime fuses a Pad of zeros into the convolution behind it: the pair stands before the Pad, and
            none behind it.
        quantizes_branches: each branch of a concatenation gets a pair of its own; where not, the runtime moves the
            result's pair back over it, so that all branches have one scale.
        integer_results: kinds of layer for which the runtime has no kernel from integers to float: their result is
            quantised even when no integer operator reads it, graph outputs too. Without it the layer would run in
            float, behind a conversion of its weights at every inference.
        spreads_biases: the bias added to an integer MatMul of three dimensions or more is written with as many. Of a
            bias of one dimension the runtime makes a Gemm, for which it has no kernel from integers to float.
        integer_operators: what the runtime computes in integers besides layers, adds, concatenations and moves.
        shuffles: the runtime splits, gathers and copies to the nearest in integers, and takes them through a concatenation
            and the moves behind it where all branches have one scale (``deploy.qdq.shuffles``): so they get one, and pairs
            stand before the concatenation alone.
        integer_means: what a layer makes for a mean over positions alone is quantised: written and read in a quarter of the
            bytes, and the mean takes the rounding back out.
        integer_layers: kinds of layer that the runtime has in integers.
        integer_tables: tables of embeddings are int8 with a scale a row (``deploy.qdq.tables``): smaller, and no slower.
        layers_alone: nothing runs in integers but layers: adds, concatenations and moves between them are float.
        wide: the runtime takes activations of 16 bits beside those of 8: layers that 8 bits hurt may read such, where that
            is measured to pay.
        why: where this was learned, for the reader of a report.
    """

    activation: Literal["uint8", "int8"]
    activation_symmetric: bool
    weight_bits: int = 8
    weight_per_channel: bool = True
    fuses_add: bool = False
    fuses_pad: bool = False
    quantizes_branches: bool = True
    integer_results: tuple[str, ...] = ()
    spreads_biases: bool = False
    integer_operators: tuple[str, ...] = ()
    shuffles: bool = False
    integer_means: bool = False
    integer_layers: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    integer_tables: bool = False
    layers_alone: bool = False
    wide: bool = False
    why: str

    def numbers(self) -> tuple[object, ...]:
        """Return the settings of the integers; files of recipes with equal ones compute the same."""
        return self.activation, self.activation_symmetric, self.weight_bits, self.weight_per_channel


LAYERS = ("Conv", "Gemm", "MatMul")
ORT_RESULTS = ("Conv",)
ORT_OPERATORS = ("Sigmoid", "LeakyRelu", "Mul")
ORT_WHY = (
    "ONNX Runtime has QLinearConv, which makes integers, and QLinearSigmoid and QLinearMul for gates and SiLU: without "
)
ORT_WHY += (
    "the pair behind a convolution a gated network ran 3x slower than in float (measured on AVX2); a product of tokens "
)
ORT_WHY += "and its bias it fuses into a float Gemm, which made a ViT 2x slower than as integers"

OPENVINO_WHY = (
    "OpenVINO shuffles, splits and upsamples in integers, concatenations that are moved on where all branches have one "
    "scale: else it goes to float and back, which took detectors 1.04x to 1.08x the time (measured on AVX2); ONNX Runtime "
    "gained nothing by it; a result that a mean alone reads is written in integers: SqueezeNet went from 1.07 to 0.96 times "
    "NNCF's time (measured with AMX)"
)

QUANTIZATION: dict[str, QuantizationRecipe] = {
    "x86-vnni": QuantizationRecipe(
        activation="uint8",
        activation_symmetric=False,
        integer_tables=True,
        shuffles=True,
        integer_means=True,
        why="VPDPBUSD multiplies u8 by s8; u8 activations with s8 per-channel weights measured best on ONNX Runtime "
        f"and OpenVINO alike; {OPENVINO_WHY}",
    ),
    "x86-no-vnni": QuantizationRecipe(
        activation="uint8",
        activation_symmetric=False,
        weight_bits=7,
        integer_tables=True,
        shuffles=True,
        integer_means=True,
        why=f"VPMADDUBSW saturates in 16 bits: weights keep one bit free; {OPENVINO_WHY}",
    ),
    "arm-dotprod": QuantizationRecipe(
        activation="int8",
        activation_symmetric=False,
        integer_results=ORT_RESULTS,
        spreads_biases=True,
        integer_operators=ORT_OPERATORS,
        wide=True,
        why=f"SDOT multiplies s8 by s8; u8 activations would be flipped at run time; {ORT_WHY}",
    ),
    "tensorrt": QuantizationRecipe(
        activation="int8",
        activation_symmetric=True,
        fuses_add=True,
        fuses_pad=True,
        quantizes_branches=False,
        why="TensorRT takes zero point 0 alone; a pair stands on the residual branch before an add (without it the "
        "add runs in float, TensorRT issue 1992) and on no result that fuses with what reads it (Pad: issue 2592)",
    ),
    "xnnpack": QuantizationRecipe(
        activation="int8",
        activation_symmetric=False,
        integer_results=LAYERS,
        why="XNNPACK's kernels take s8 activations with a zero point and s8 per-channel weights, and make s8; "
        "it discourages u8",
    ),
    "qnn": QuantizationRecipe(
        activation="uint8",
        activation_symmetric=False,
        integer_results=LAYERS,
        integer_operators=ORT_OPERATORS,
        wide=True,
        why="ONNX Runtime's page of QNN: u8 or u16 activations, s8 weights by channel, a pair around each operator, or the "
        "NPU leaves it to the CPU; not run here",
    ),
    "ncnn": QuantizationRecipe(
        activation="int8",
        activation_symmetric=True,
        integer_layers=("Conv", "Gemm"),
        layers_alone=True,
        why="NCNN has int8 for convolutions and inner products, with one scale for the input and none for a zero point; "
        "what stands between them is float",
    ),
    "mnn": QuantizationRecipe(
        activation="int8",
        activation_symmetric=True,
        integer_layers=("Conv",),
        integer_results=("Conv",),
        layers_alone=True,
        why="MNN's convolutions read and write int8, each with a scale of its own; with zero points ResNet-18 lost its "
        "answers (cosine 0.86 to the float network, 0.9999 without); products of matrices it has in float alone",
    ),
}

for _base in ("x86-vnni", "x86-no-vnni"):
    QUANTIZATION[f"ort-{_base}"] = replace(
        QUANTIZATION[_base],
        shuffles=False,
        integer_means=False,
        integer_results=ORT_RESULTS,
        spreads_biases=True,
        integer_operators=ORT_OPERATORS,
        wide=True,
        why=f"{QUANTIZATION[_base].why.removesuffix(OPENVINO_WHY)}{ORT_WHY}",
    )
QUANTIZATION["litert"] = replace(
    QUANTIZATION["xnnpack"],
    shuffles=True,
    why=f"{QUANTIZATION['xnnpack'].why}; LiteRT's converter gives a concatenation without pairs one branch's scale, which "
    "cuts others off (ShuffleNet's block: cosine 0.984 to what the pairs compute), so shuffles have one scale; ExecuTorch's "
    "XNNPACK refuses a concatenation whose branches have several",
)
