"""Structural operation of packing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from compress.models.inputs import InputShapes, read_shapes, zeros
from deploy.export.to_onnx import capture


@final
@dataclass(frozen=True, kw_only=True)
class Pack:
    """Capture of the module as a program, batch norms folded, some weights as indices of few points.

    Attributes:
        input_shape: of one sample; of several inputs, by name, with their types.
        bits: of the indices of each packed weight, by the program's name for it.
        bucket: weights that share a range.
        even: the weights whose points are evenly spaced.
    """

    name: ClassVar[str] = "pack"
    input_shape: InputShapes
    bits: Mapping[str, int]
    bucket: int
    even: tuple[str, ...]

    def apply(self, module: nn.Module) -> nn.Module:
        """Capture ``module`` as a packed program."""
        from compress.methods.packing.packed_program import PackedProgram

        program = capture(module, zeros(self.input_shape))
        return PackedProgram(program, self.bits, self.bucket, frozenset(self.even))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Pack:
        """Read the operation from ``surgery.json``."""
        return cls(**{**entry, "input_shape": read_shapes(entry["input_shape"]), "even": tuple(entry["even"])})
